// The panel of the selected photograph: attributes, preview and downloads, and steps through the photographs of one place.

import { copyButton, h } from "./dom.js";
import { fileInfo, previews } from "./footprints.js";

/** `on`: close(), step(frame). */
export function framePanel(container, on) {
  let [entry, frames, index] = [null, [], 0];

  function open(newEntry, newFrames, newIndex = 0) {
    [entry, frames, index] = [newEntry, newFrames, newIndex];
    draw();
  }

  function close() {
    frames = [];
    container.hidden = true;
    container.replaceChildren();
  }

  function step(by) {
    index = (index + by + frames.length) % frames.length;
    draw(by < 0 ? "previous" : "next");
    on.step(frames[index]);
  }

  function draw(focus = null) {
    const frame = frames[index];
    const hasSteps = frames.length > 1;
    container.hidden = false;
    container.replaceChildren(
      h("header", {},
        h("h2", { id: "frame-title" }, title(entry, frame)),
        h("button", { type: "button", class: "close", "aria-label": "Close", onclick: on.close }, "×")),
      hasSteps ? h("nav", { class: "steps", "aria-label": "Photographs of this place" },
        h("button", { type: "button", id: "previous", "aria-label": "Previous photograph", onclick: () => step(-1) }, "‹"),
        h("span", { role: "status" }, `${index + 1} of ${frames.length} at this place`),
        h("button", { type: "button", id: "next", "aria-label": "Next photograph", onclick: () => step(1) }, "›")) : "",
      preview(entry, frame),
      h("dl", { class: "attributes" }, attributes(entry, frame).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      downloads(frame),
      h("p", { class: "permalink" }, copyButton(() => location.href, "a link to this photograph"), " a link to this photograph"),
    );
    if (focus) container.querySelector(`#${focus}`)?.focus();
  }

  container.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" && frames.length > 1) step(-1);
    if (event.key === "ArrowRight" && frames.length > 1) step(1);
  });
  return { open, close, isOpen: () => !container.hidden };
}

function title(entry, frame) {
  if (entry.type === "mosaic") return `Mosaic ${frame.number}`;
  if (entry.type === "index") return `Index sheet ${frame.number}`;
  return frame.roll && frame.roll !== "N/A" ? `Roll ${frame.roll}, frame ${frame.number}` : `Frame ${frame.number}`;
}

function attributes(entry, frame) {
  const rows = [["Date", frame.date]];
  if (entry.type === "frames") rows.push(["Roll", frame.roll === "N/A" ? "none" : frame.roll]);
  rows.push([entry.type === "frames" ? "Frame" : "Number", frame.number], ["Film", entry.films[frame.filmType] ?? frame.filmType], ["Collection", entry.label], ["File", frame.file]);
  return rows.filter(([, value]) => value);
}

function preview(entry, frame) {
  const addresses = previews(entry, frame);
  const image = h("img", { class: "preview", alt: `Preview of ${title(entry, frame)}`, src: addresses.shift() });
  image.addEventListener("error", () => {
    if (addresses.length) image.src = addresses.shift();
    else image.replaceWith(h("p", { class: "preview none" }, "There is no preview of this photograph yet."));
  });
  return image;
}

/** Three links. The index links the raw scan even if it is not in the archive, so the page checks whether it exists. */
function downloads(frame) {
  const files = [
    ["Raw scan", "as it came from the scanner", frame.scan],
    ["GeoTIFF", "georeferenced, cloud optimized", frame.cog],
    ["Tile index", "of the whole collection, zipped shapefile", frame.index],
  ];
  return h("ul", { class: "downloads" }, files.map(([name, description, address]) => {
    const line = h("li", {}, name, h("small", {}, "not available"));
    if (!address) return line;
    const note = h("small", {}, description);
    line.replaceChildren(h("a", { href: address, download: "" }, name), note);
    fileInfo(address).then((info) => {
      if (info?.exists && info.bytes) note.textContent = `${description}, ${formatSize(info.bytes)}`;
      if (info?.isMissing) line.replaceChildren(name, h("small", { class: "missing" }, "is not in the archive yet"));
      if (!info && name === "Raw scan") note.textContent = `${description}, if it is in the archive`;
    });
    return line;
  }));
}

function formatSize(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
