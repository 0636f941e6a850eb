// The photograph that was chosen: what it is, how it looks, where it is downloaded. Several at one place are stepped through.

import { FILM } from "./catalogue.js";
import { copyButton, h } from "./dom.js";
import { fileInfo, previews } from "./footprints.js";

/** `told`: closed(), shown(frame). */
export function framePanel(place, told) {
  let [entry, frames, at] = [null, [], 0];

  function open(of, found, index = 0) {
    [entry, frames, at] = [of, found, index];
    draw();
  }

  function close() {
    frames = [];
    place.hidden = true;
    place.replaceChildren();
  }

  function step(by) {
    at = (at + by + frames.length) % frames.length;
    draw(by < 0 ? "previous" : "next");
    told.shown(frames[at]);
  }

  function draw(focus = null) {
    const frame = frames[at];
    const several = frames.length > 1;
    place.hidden = false;
    place.replaceChildren(
      h("header", {},
        h("h2", { id: "frame-title" }, title(entry, frame)),
        h("button", { type: "button", class: "close", "aria-label": "Close", onclick: told.closed }, "×")),
      several ? h("nav", { class: "steps", "aria-label": "Photographs of this place" },
        h("button", { type: "button", id: "previous", "aria-label": "Previous photograph", onclick: () => step(-1) }, "‹"),
        h("span", { role: "status" }, `${at + 1} of ${frames.length} at this place`),
        h("button", { type: "button", id: "next", "aria-label": "Next photograph", onclick: () => step(1) }, "›")) : "",
      preview(entry, frame),
      h("dl", { class: "attributes" }, attributes(entry, frame).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      downloads(frame),
      h("p", { class: "permalink" }, copyButton(() => location.href, "a link to this photograph"), " a link to this photograph"),
    );
    if (focus) place.querySelector(`#${focus}`)?.focus();
  }

  place.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" && frames.length > 1) step(-1);
    if (event.key === "ArrowRight" && frames.length > 1) step(1);
  });
  return { open, close, isOpen: () => !place.hidden };
}

function title(entry, frame) {
  if (entry.type === "mosaic") return `Mosaic ${frame.number}`;
  if (entry.type === "index") return `Index sheet ${frame.number}`;
  return frame.roll && frame.roll !== "N/A" ? `Roll ${frame.roll}, frame ${frame.number}` : `Frame ${frame.number}`;
}

function attributes(entry, frame) {
  const known = [["Date", frame.date]];
  if (entry.type === "frames") known.push(["Roll", frame.roll === "N/A" ? "none" : frame.roll]);
  known.push([entry.type === "frames" ? "Frame" : "Number", frame.number], ["Film", FILM[frame.band]], ["Collection", entry.label], ["File", frame.file]);
  return known.filter(([, value]) => value);
}

function preview(entry, frame) {
  const ways = previews(entry, frame);
  const picture = h("img", { class: "preview", alt: `Preview of ${title(entry, frame)}`, src: ways.shift() });
  picture.addEventListener("error", () => {
    if (ways.length) picture.src = ways.shift();
    else picture.replaceWith(h("p", { class: "preview none" }, "There is no preview of this photograph yet."));
  });
  return picture;
}

/** Three links. The raw scan is linked in the index whether or not it was brought: here it is asked for. */
function downloads(frame) {
  const files = [
    ["Raw scan", "as it came from the scanner", frame.scan],
    ["GeoTIFF", "georeferenced, cloud optimized", frame.cog],
    ["Tile index", "of the whole collection, zipped shapefile", frame.index],
  ];
  return h("ul", { class: "downloads" }, files.map(([name, what, address]) => {
    const line = h("li", {}, name, h("small", {}, "There is none."));
    if (!address) return line;
    const note = h("small", {}, what);
    line.replaceChildren(h("a", { href: address, download: "" }, name), note);
    fileInfo(address).then((info) => {
      if (info?.exists && info.bytes) note.textContent = `${what}, ${size(info.bytes)}`;
      if (info?.gone) line.replaceChildren(name, h("small", { class: "missing" }, "is not in the archive (yet)."));
      if (!info && name === "Raw scan") note.textContent = `${what}, if it has been brought to the archive`;
    });
    return line;
  }));
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
