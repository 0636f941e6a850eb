// The panel that finds a collection: a search box, the facets and the list of matches. The search itself is in `collection_list.js`.

import { FILTERS } from "./address.js";
import { FACETS, choices, search } from "./collection_list.js";
import { announce, counted, h } from "./dom.js";

const PAGE_SIZE = 100; // collections listed at first; a button shows more

/** `on`: choose(entry), filter(patch, isTyping), hover(entry or null). */
export function browsePanel(container, on) {
  const box = h("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false", placeholder: "County, agency or year", oninput: () => on.filter({ q: box.value }, true) });
  const selects = Object.entries(FACETS).map(([name, { label }]) => [
    name,
    h("select", { id: `facet-${name}`, "aria-label": label, onchange: (event) => on.filter({ [name]: event.target.value }) }),
  ]);
  const summary = h("p", { class: "summary" });
  const list = h("ul", { class: "collections", id: "collections" });
  const more = h("button", { type: "button", class: "more", hidden: true }, "Show more");
  container.append(
    h("form", { class: "search", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { for: "search" }, "Find a collection"),
      box,
      h("div", { class: "facets" }, selects.map(([, select]) => select))),
    summary,
    list,
    more,
  );

  /** Draws the list; returns the collections that match. */
  function show(collections, state) {
    if (box.value !== state.q) box.value = state.q;
    for (const [name, select] of selects) fillSelect(select, name, collections, state);
    const matches = search(collections, state);
    let listed = 0;
    list.replaceChildren();
    const showNext = () => {
      list.append(...matches.slice(listed, (listed += PAGE_SIZE)).map(row));
      more.hidden = listed >= matches.length;
    };
    more.onclick = showNext;
    showNext();
    showSummary(collections, state, matches);
    return matches;
  }

  function showSummary(collections, state, matches) {
    const isFiltered = Object.keys(FACETS).some((name) => state[name]) || state.q || state.at;
    const noFilter = Object.fromEntries(FILTERS.map((name) => [name, ""]));
    const clear = h("button", { type: "button", class: "plain", onclick: () => on.filter(noFilter) }, "Show all");
    const where = state.at ? " at the place you chose" : "";
    const text = !collections.length
      ? "The map is empty: a collection appears here about a minute after its first frames are dropped into the archive."
      : matches.length
        ? `${isFiltered ? `${matches.length.toLocaleString("en-US")} of ` : ""}${counted(collections.length, "collection")}${where}`
        : `No collection matches${where}: try fewer words.`;
    if (summary.firstChild?.textContent !== text) announce(text);
    summary.replaceChildren(h("span", {}, text), ...(isFiltered ? [clear] : []));
  }

  function row(entry) {
    const size = entry.type === "frames" ? counted(entry.frames, "frame") : entry.type === "index" ? counted(entry.frames, "index sheet") : counted(entry.frames, "mosaic");
    const hover = { onmouseenter: () => on.hover(entry), onmouseleave: () => on.hover(null), onfocus: () => on.hover(entry), onblur: () => on.hover(null) };
    return h("li", {},
      h("button", { type: "button", "data-table": entry.table, onclick: () => on.choose(entry), ...hover },
        h("span", { class: "year" }, String(entry.year ?? "–")),
        h("span", { class: "what" }, h("strong", {}, entry.place), h("span", {}, [entry.agency, filmTypes(entry)].filter(Boolean).join(" · "))),
        h("span", { class: "frames" }, size)));
  }

  return { show, focus: (table) => (list.querySelector(`[data-table="${CSS.escape(table ?? "")}"]`) ?? box).focus() };
}

function fillSelect(select, name, collections, state) {
  const { label, format } = FACETS[name];
  const [values, selected] = [choices(collections, state, name), state[name]];
  const options = values.map(([value, count]) => option(value, `${name === "year" && !value.endsWith("s") ? "  " : ""}${format(value, collections)} (${count})`, value === selected));
  if (selected && !values.some(([value]) => value === selected)) options.push(option(selected, `${format(selected, collections)} (0)`, true));
  select.replaceChildren(option("", label, !selected), ...options);
  select.classList.toggle("set", Boolean(selected));
}

function option(value, text, selected) {
  return h("option", { value, selected }, text);
}

/** "black and white", "natural color", or several of them. */
export function filmTypes({ films }) {
  return new Intl.ListFormat("en-US").format(Object.values(films));
}
