// The panel of the selected collection: facts, display options, comparison with other years, downloads, addresses, frames in view.

import { filmTypes } from "./browse.js";
import { files, overlapping, services } from "./collection_list.js";
import { copyButton, counted, h } from "./dom.js";
import { framesWithin } from "./footprints.js";

/** `on`: back(), change(patch, isQuiet), choose(entry, keepView), fit(), showFrame(frame, frames), swap(compared). `extent()`: the map's. */
export function collectionPanel(container, on, extent) {
  let inView = null;

  function show(entry, collections, state) {
    const others = overlapping(collections, entry);
    const compared = collections.find(({ table }) => table === state.compare) ?? null;
    const open = new Set([...container.querySelectorAll("details[open]")].map((part) => part.id));
    const isSame = container.dataset.table === entry.table;
    const focused = isSame ? document.activeElement?.id : null;
    inView = framesList(entry, on, extent);
    container.replaceChildren(
      h("button", { type: "button", class: "plain back", id: "back", onclick: on.back }, "All collections"),
      h("h2", { id: "chosen-title", tabindex: -1 }, entry.label),
      h("p", { class: "facts" }, facts(entry)),
      displayOptions(state, on),
      comparison(entry, others, compared, state, on),
      details("in-view", "Frames in view", inView.element),
      details("files", "Download outlines and catalog", fileList(entry)),
      details("services", "Use it in QGIS, ArcGIS or a web map", serviceList(entry)),
    );
    container.dataset.table = entry.table;
    for (const part of container.querySelectorAll("details")) part.open = isSame && open.has(part.id);
    if (focused && container.contains(document.getElementById(focused))) document.getElementById(focused).focus();
  }

  return { show, refreshFrames: () => inView?.refresh() };
}

function facts(entry) {
  const size = { frames: counted(entry.frames, "photograph"), index: counted(entry.frames, "index sheet"), mosaic: counted(entry.frames, "mosaic") }[entry.type];
  const updated = entry.updated && `updated ${new Date(entry.updated).toLocaleDateString("en-US", { day: "numeric", month: "short", year: "numeric" }).replaceAll(" ", "\u00a0")}`;
  return [size, filmTypes(entry), updated].filter(Boolean).join(" · ");
}

function displayOptions(state, on) {
  const opacity = h("input", { type: "range", id: "opacity", min: 0, max: 100, value: Math.round(state.opacity * 100), oninput: () => on.change({ opacity: opacity.value / 100 }, true) });
  const footprints = h("input", { type: "checkbox", id: "footprints", checked: state.footprints, onchange: () => on.change({ footprints: footprints.checked }, true) });
  return h("div", { class: "controls" },
    h("label", { class: "slider", for: "opacity" }, "Opacity", opacity),
    h("label", { class: "switch", for: "footprints" }, footprints, "Frame outlines"),
    h("button", { type: "button", id: "fit", onclick: on.fit }, "Zoom to the collection"));
}

function comparison(entry, others, compared, state, on) {
  if (!others.length) return h("section", { class: "compare" }, h("h3", {}, "Compare"), h("p", { class: "quiet" }, "No other collection covers this place."));
  const select = h("select", { id: "compare", onchange: () => on.change({ compare: select.value || null, frame: null, frameSide: "" }) },
    h("option", { value: "" }, "nothing"),
    others.map((other) => h("option", { value: other.table, selected: other === compared }, other.type === "frames" ? other.label : `${other.label}, ${other.kind}`)));
  const years = h("ul", { class: "years" }, others.filter(({ type }) => type === entry.type).concat(entry).sort((a, b) => (a.year ?? 9999) - (b.year ?? 9999)).map((other) =>
    h("li", {}, h("button", { type: "button", id: `year-${other.table}`, "aria-current": other === entry ? "true" : false, title: other.label, onclick: () => on.choose(other, true) }, String(other.year ?? other.place)))));
  const mode = (side, id, text) => h("button", { type: "button", id, "aria-pressed": String(state.side === side), onclick: () => on.change({ side }) }, text);
  return h("section", { class: "compare" },
    h("h3", {}, "This place in other years"),
    years.children.length > 1 ? years : null,
    h("label", { class: "stacked", for: "compare" }, "Compare with", select),
    compared && h("div", { class: "modes" }, mode(false, "mode-swipe", "Divider"), mode(true, "mode-side", "Side by side"),
      h("button", { type: "button", id: "swap", onclick: () => on.swap(compared) }, "Swap")));
}

function serviceList(entry) {
  return h("dl", { class: "services" }, services(entry).flatMap(([name, use, address]) => [
    h("dt", {}, name, h("small", {}, use)),
    h("dd", {}, h("code", { tabindex: 0 }, address), copyButton(() => address, `the ${name} address`)),
  ]));
}

function fileList(entry) {
  return h("ul", { class: "downloads" }, files(entry).map(([name, description, address]) =>
    h("li", {}, h("a", { href: address, download: "" }, name), h("small", {}, description))));
}

function details(id, summary, content) {
  return h("details", { id }, h("summary", {}, summary), content);
}

/** The list that reaches frames without a pointer. It is loaded when opened, and again after the map has moved. */
function framesList(entry, on, extent) {
  const list = h("ul", { class: "in-view" });
  const message = h("p", { class: "quiet" });
  const element = h("div", {}, message, list);
  let latest = 0;
  async function refresh() {
    if (!element.closest("details")?.open) return;
    const request = ++latest;
    try {
      const { frames, total } = await framesWithin(entry, extent());
      if (request !== latest) return;
      message.textContent = frames.length < total ? `The first ${frames.length} of ${total.toLocaleString("en-US")} frames: zoom in to see the others.` : frames.length ? "" : "There are no frames here: move the map.";
      list.replaceChildren(...frames.map((frame) => h("li", {}, h("button", { type: "button", onclick: () => on.showFrame(frame, frames) }, frame.file, h("span", {}, frame.date ?? "")))));
    } catch (error) {
      message.textContent = error.message;
    }
  }
  queueMicrotask(() => element.closest("details")?.addEventListener("toggle", refresh));
  return { element, refresh };
}
