// The chosen collection: what it is, how it is shown, the other years of the place, its addresses, its frames in view.

import { colours } from "./browse.js";
import { files, neighbours, services } from "./catalogue.js";
import { copyButton, counted, h } from "./dom.js";
import { framesWithin } from "./footprints.js";

/** `told`: back(), changed(patch), chosen(entry), fit(), frame(frame); `extent()` is what the map shows. */
export function collectionPanel(place, told, extent) {
  let inView = null;

  function show(entry, collections, state) {
    const others = neighbours(collections, entry);
    const compared = collections.find(({ table }) => table === state.compare) ?? null;
    const open = new Set([...place.querySelectorAll("details[open]")].map((part) => part.id));
    const same = place.dataset.table === entry.table;
    const focused = same ? document.activeElement?.id : null;
    inView = framesList(entry, told, extent);
    place.replaceChildren(
      h("button", { type: "button", class: "plain back", id: "back", onclick: told.back }, "All collections"),
      h("h2", { id: "chosen-title", tabindex: -1 }, entry.label),
      h("p", { class: "facts" }, facts(entry)),
      look(entry, state, told),
      comparing(entry, others, compared, state, told),
      details("in-view", "Frames in view", inView.element),
      details("files", "Outlines and catalogue to download", fileList(entry)),
      details("services", "Use it in QGIS, ArcGIS or a web map", serviceList(entry)),
    );
    place.dataset.table = entry.table;
    for (const part of place.querySelectorAll("details")) part.open = same && open.has(part.id);
    if (focused && place.contains(document.getElementById(focused))) document.getElementById(focused).focus();
  }

  return { show, looked: () => inView?.refresh() };
}

function facts(entry) {
  const kind = { frames: counted(entry.frames, "photograph"), index: counted(entry.frames, "index sheet"), mosaic: counted(entry.frames, "mosaic") }[entry.type];
  const updated = entry.updated && `updated ${new Date(entry.updated).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" }).replaceAll(" ", "\u00a0")}`;
  return [kind, colours(entry), updated].filter(Boolean).join(" · ");
}

function look(entry, state, told) {
  const opacity = h("input", { type: "range", id: "opacity", min: 0, max: 100, value: Math.round(state.opacity * 100), oninput: () => told.changed({ opacity: opacity.value / 100 }, true) });
  const footprints = h("input", { type: "checkbox", id: "footprints", checked: state.footprints, onchange: () => told.changed({ footprints: footprints.checked }, true) });
  return h("div", { class: "controls" },
    h("label", { class: "slider", for: "opacity" }, "Opacity", opacity),
    h("label", { class: "switch", for: "footprints" }, footprints, "Outlines of the frames"),
    h("button", { type: "button", id: "fit", onclick: told.fit }, "Show all of it"));
}

function comparing(entry, others, compared, state, told) {
  if (!others.length) return h("section", { class: "compare" }, h("h3", {}, "Compare"), h("p", { class: "quiet" }, "No other collection shows this place."));
  const choose = h("select", { id: "compare", onchange: () => told.changed({ compare: choose.value || null, frame: null, of: "" }) },
    h("option", { value: "" }, "nothing"),
    others.map((other) => h("option", { value: other.table, selected: other === compared }, other.type === "frames" ? other.label : `${other.label}, ${other.kind}`)));
  const years = h("ul", { class: "years" }, others.filter(({ type }) => type === entry.type).concat(entry).sort((a, b) => (a.year ?? 9999) - (b.year ?? 9999)).map((other) =>
    h("li", {}, h("button", { type: "button", id: `year-${other.table}`, "aria-current": other === entry ? "true" : false, title: other.label, onclick: () => told.chosen(other, true) }, String(other.year ?? other.place)))));
  const mode = (side, id, text) => h("button", { type: "button", id, "aria-pressed": String(state.side === side), onclick: () => told.changed({ side }) }, text);
  return h("section", { class: "compare" },
    h("h3", {}, "This place in other years"),
    years.children.length > 1 ? years : null,
    h("label", { class: "stacked", for: "compare" }, "Compare with", choose),
    compared && h("div", { class: "modes" }, mode(false, "mode-swipe", "Divider"), mode(true, "mode-side", "Side by side"),
      h("button", { type: "button", id: "swap", onclick: () => told.swap(compared) }, "Swap")));
}

function serviceList(entry) {
  return h("dl", { class: "services" }, services(entry).flatMap(([name, use, address]) => [
    h("dt", {}, name, h("small", {}, use)),
    h("dd", {}, h("code", { tabindex: 0 }, address), copyButton(() => address, `the ${name} address`)),
  ]));
}

function fileList(entry) {
  return h("ul", { class: "downloads" }, files(entry).map(([name, what, address]) =>
    h("li", {}, h("a", { href: address, download: "" }, name), h("small", {}, what))));
}

function details(id, summary, content) {
  return h("details", { id }, h("summary", {}, summary), content);
}

/** The way to a frame without a pointer: filled when it is opened, and again when the map has moved. */
function framesList(entry, told, extent) {
  const list = h("ul", { class: "in-view" });
  const said = h("p", { class: "quiet" });
  const element = h("div", {}, said, list);
  let latest = 0;
  async function refresh() {
    if (!element.closest("details")?.open) return;
    const mine = ++latest;
    try {
      const { frames, all } = await framesWithin(entry, extent());
      if (mine !== latest) return;
      said.textContent = frames.length < all ? `The first ${frames.length} of ${all.toLocaleString("en-US")}: zoom in for the others.` : frames.length ? "" : "None: move the map.";
      list.replaceChildren(...frames.map((frame) => h("li", {}, h("button", { type: "button", onclick: () => told.frame(frame, frames) }, frame.file, h("span", {}, frame.date ?? "")))));
    } catch (error) {
      said.textContent = error.message;
    }
  }
  queueMicrotask(() => element.closest("details")?.addEventListener("toggle", refresh));
  return { element, refresh };
}
