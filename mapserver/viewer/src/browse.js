// Finding a collection: one box, four facets, and the list of what they leave.

import { FACETS, FILM, choices, search } from "./catalogue.js";
import { announce, counted, h } from "./dom.js";

const PAGE = 100; // collections listed at once; more by a button

/** `told`: chosen(entry), filtered(patch), hovered(entry or null). */
export function browser(place, told) {
  const box = h("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false", placeholder: "County, agency or year", oninput: () => told.filtered({ q: box.value }, true) });
  const selects = Object.entries(FACETS).map(([name, { label }]) => [
    name,
    h("select", { id: `facet-${name}`, "aria-label": label, onchange: (event) => told.filtered({ [name]: event.target.value }) }),
  ]);
  const found = h("p", { class: "found" });
  const list = h("ul", { class: "collections", id: "collections" });
  const more = h("button", { type: "button", class: "more", hidden: true }, "Show more");
  place.append(
    h("form", { class: "search", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { for: "search" }, "Find a collection"),
      box,
      h("div", { class: "facets" }, selects.map(([, select]) => select))),
    found,
    list,
    more,
  );

  function show(collections, state) {
    if (box.value !== state.q) box.value = state.q;
    for (const [name, select] of selects) fill(select, name, choices(collections, state, name), state[name]);
    const left = search(collections, state);
    let shown = 0;
    list.replaceChildren();
    const next = () => {
      list.append(...left.slice(shown, (shown += PAGE)).map(row));
      more.hidden = shown >= left.length;
    };
    more.onclick = next;
    next();
    tell(collections, state, left);
    return left;
  }

  function tell(collections, state, left) {
    const filtered = Object.keys(FACETS).some((name) => state[name]) || state.q || state.at;
    const all = { q: "", at: "", county: "", agency: "", year: "", type: "" };
    const clear = h("button", { type: "button", class: "plain", onclick: () => told.filtered(all) }, "Show all");
    const where = state.at ? " at the place you chose" : "";
    const text = !collections.length
      ? "Nothing is on the map yet: the first collection appears here a minute after its frames are dropped into the archive."
      : left.length
        ? `${filtered ? `${left.length.toLocaleString("en-US")} of ` : ""}${counted(collections.length, "collection")}${where}`
        : `No collection matches${where}: try fewer words.`;
    if (found.firstChild?.textContent !== text) announce(text);
    found.replaceChildren(h("span", {}, text), ...(filtered ? [clear] : []));
  }

  function row(entry) {
    const kind = entry.type === "frames" ? counted(entry.frames, "frame") : entry.type === "index" ? counted(entry.frames, "index sheet") : counted(entry.frames, "mosaic");
    const hover = { onmouseenter: () => told.hovered(entry), onmouseleave: () => told.hovered(null), onfocus: () => told.hovered(entry), onblur: () => told.hovered(null) };
    return h("li", {},
      h("button", { type: "button", "data-table": entry.table, onclick: () => told.chosen(entry), ...hover },
        h("span", { class: "year" }, String(entry.year ?? "–")),
        h("span", { class: "what" }, h("strong", {}, entry.place), h("span", {}, [entry.agency, colours(entry)].filter(Boolean).join(" · "))),
        h("span", { class: "frames" }, kind)));
  }

  return { show, focus: (table) => (list.querySelector(`[data-table="${CSS.escape(table ?? "")}"]`) ?? box).focus() };
}

function fill(select, name, values, chosen) {
  const { label, show } = FACETS[name];
  const options = values.map(([value, count]) => option(value, `${name === "year" && !value.endsWith("s") ? "  " : ""}${show(value)} (${count})`, value === chosen));
  if (chosen && !values.some(([value]) => value === chosen)) options.push(option(chosen, `${show(chosen)} (0)`, true));
  select.replaceChildren(option("", label, !chosen), ...options);
  select.classList.toggle("set", Boolean(chosen));
}

function option(value, text, selected) {
  return h("option", { value, selected }, text);
}

/** "black and white", "colour", or both. */
export function colours({ bands = [] }) {
  return Object.keys(FILM).filter((band) => bands.includes(band)).map((band) => FILM[band]).join(" and ");
}
