// Small helpers over the DOM. Text is always set as text: nothing that comes from the archive is read as HTML.

/** An element with properties (`class`, `on...`, ARIA and data attributes) and children; null children are left out. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** "1 frame", "9 frames", "1,204 frames". */
export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? one : many}`;
}

/** Says something to people who cannot see that the page has changed. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** What is wrong, above everything; null takes it away. */
export function notice(text, retry = null) {
  const place = byId("notice");
  place.hidden = !text;
  place.replaceChildren(...(text ? [text, retry ? h("button", { type: "button", onclick: retry }, "Try again") : ""] : []));
}

/** A button that copies what `text()` gives, and says that it did. */
export function copyButton(text, what) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copied(text());
    button.textContent = done ? "Copied" : "Select it";
    announce(done ? `Copied ${what}.` : "The browser does not allow copying here: select the address and copy it.");
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

/** The clipboard of a page without https is reached the old way. */
async function copied(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const field = h("textarea", { class: "visually-hidden", value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
