// Small helpers for the DOM. Text is always set as text: content of the archive is never parsed as HTML.

/** An element with properties (`class`, `on...`, ARIA and data attributes) and children. Null properties and children are omitted. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** "1 frame", "9 frames", "1,204 frames". */
export function counted(number, singular, plural = `${singular}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? singular : plural}`;
}

/** Announce a change of the page to screen readers. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Show an error above everything, with a button if it can be retried; null hides it. */
export function showNotice(text, retry = null) {
  const container = byId("notice");
  container.hidden = !text;
  container.replaceChildren(...(text ? [text, retry ? h("button", { type: "button", onclick: retry }, "Try again") : ""] : []));
}

/** A button that copies `text()` and confirms it. */
export function copyButton(text, description) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${description}` }, "Copy");
  button.addEventListener("click", async () => {
    const isCopied = await copy(text());
    button.textContent = isCopied ? "Copied" : "Not copied";
    announce(isCopied ? `Copied ${description}.` : "The browser does not allow copying here: select the address and copy it.");
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

/** Whether the text was copied. A page without https has no `navigator.clipboard`, so it uses `execCommand`. */
async function copy(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const field = h("textarea", { class: "visually-hidden", value: text });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}
