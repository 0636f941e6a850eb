// The map area of the page: one map, or two with a divider or side by side, with the same view. One map's layers are in `map.js`.

import View from "ol/View.js";
import { getCenter } from "ol/extent.js";
import { unByKey } from "ol/Observable.js";
import { fromLonLat, toLonLat } from "ol/proj.js";
import { h } from "./dom.js";
import { Viewer, animationDuration } from "./map.js";

const MIN_ZOOM = 4; // unless the archive is larger than the map at this zoom
const STEP = 0.02; // share of the width that an arrow key moves the divider

export class Stage {
  #clips = [];
  #split = 0.5;
  #right = null;

  /** `on`: pick(entries, coordinate, slot, county), hover(entry or null), move(view), split(share), missing(name, count, retryAll). */
  constructor(container, on) {
    this.on = on;
    this.container = container;
    this.view = new View({ center: [0, 0], zoom: MIN_ZOOM, minZoom: 0, maxZoom: 21, enableRotation: false });
    this.leftPane = h("div", { class: "pane", id: "map" });
    this.divider = createDivider((split) => this.#moveDivider(split));
    this.labels = { left: h("p", { class: "side-label left", hidden: true }), right: h("p", { class: "side-label right", hidden: true }) };
    container.append(this.leftPane, this.divider.element, this.labels.left, this.labels.right);
    this.left = new Viewer(this.leftPane, this.view, "Map. Arrow keys move it, plus and minus zoom, Enter selects what is at the center.", on.missing);
    this.#listen(this.left, "left");
    this.left.map.on("moveend", () => on.move(this.getView()));
  }

  /** The center in degrees, and the zoom. */
  getView() {
    const [lon, lat] = toLonLat(this.view.getCenter());
    return { zoom: this.view.getZoom(), lat, lon };
  }

  /** Show an extent, and zoom out no further than that. */
  showFirst(extent) {
    this.left.fit(extent, { duration: 0 });
    this.view.setMinZoom(Math.min(MIN_ZOOM, this.view.getZoom()));
  }

  setView({ zoom, lat, lon }) {
    this.view.cancelAnimations();
    this.view.setCenter(fromLonLat([lon, lat]));
    this.view.setZoom(zoom);
  }

  /** Draw the state. `selected` and `compared`: collections or null. `listed`: collections to select from. `countOf(county)`: theirs. */
  show(selected, compared, state, listed, countOf) {
    const side = Boolean(compared && state.side);
    this.#split = state.split;
    this.left.showOutlines(selected ? [] : listed, selected ? () => 0 : countOf, !selected && !isFiltered(state));
    this.left.showImagery("left", selected);
    this.left.showImagery("right", side ? null : compared);
    this.#setSideBySide(side, compared);
    this.setDisplay(state);
    this.#clip(Boolean(compared) && !side);
    this.#setLabel("left", compared ? selected : null);
    this.#setLabel("right", compared);
  }

  setDisplay(state) {
    for (const viewer of this.#viewers()) viewer.setDisplay(state);
  }

  /** Move the map when `panel` covers the center of `extent`. */
  reveal(extent, panel) {
    const [map, cover] = [this.leftPane.getBoundingClientRect(), panel.getBoundingClientRect()];
    const isSheet = cover.width > map.width * 0.8; // at the bottom, as on a phone
    const free = [isSheet ? map.width : Math.min(map.width, cover.left - map.left), isSheet ? Math.max(80, cover.top - map.top) : map.height];
    const middle = getCenter(extent);
    const [x, y] = this.left.map.getPixelFromCoordinate(middle) ?? free;
    if (x >= 0 && y >= 0 && x < free[0] && y < free[1]) return;
    const resolution = this.view.getResolution();
    const center = [middle[0] + (map.width / 2 - free[0] / 2) * resolution, middle[1] - (map.height / 2 - free[1] / 2) * resolution];
    this.view.animate({ center, duration: animationDuration() });
  }

  mark(geometry) {
    for (const viewer of this.#viewers()) viewer.mark(geometry);
  }

  recolor() {
    for (const viewer of this.#viewers()) viewer.recolor();
  }

  focus() {
    this.leftPane.focus();
  }

  #viewers() {
    return this.#right ? [this.left, this.#right] : [this.left];
  }

  #setSideBySide(isSide, compared) {
    this.container.classList.toggle("side-by-side", isSide);
    if (isSide && !this.#right) {
      const pane = h("div", { class: "pane", id: "map-right" });
      this.leftPane.after(pane);
      this.#right = new Viewer(pane, this.view, "Second map. It moves with the first.", this.on.missing);
      this.#listen(this.#right, "right");
    }
    if (!isSide && this.#right) {
      this.#right.showImagery("right", null);
      this.#right.map.setTarget(null);
      this.#right.target.remove();
      this.#right = null;
    }
    if (isSide) this.#right.showImagery("right", compared);
    for (const viewer of this.#viewers()) viewer.map.updateSize();
  }

  #listen(viewer, slot) {
    viewer.map.on("singleclick", ({ pixel, coordinate }) => this.#pick(viewer, pixel, coordinate, slot));
    viewer.map.on("pointermove", ({ pixel, dragging }) => {
      if (dragging) return;
      const [entry] = viewer.collectionsAt(pixel);
      viewer.target.classList.toggle("pickable", Boolean(entry ?? viewer.countyAt(pixel)));
      this.on.hover(entry ?? null);
    });
    viewer.target.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const middle = this.view.getCenter();
      this.#pick(viewer, viewer.map.getPixelFromCoordinate(middle), middle, slot);
    });
  }

  /** With a divider, the position decides which of the two collections is picked. */
  #pick(viewer, pixel, coordinate, slot) {
    const isRight = !this.divider.element.hidden && pixel[0] > this.#split * viewer.map.getSize()[0];
    this.on.pick(viewer.collectionsAt(pixel), coordinate, isRight ? "right" : slot, viewer.countyAt(pixel));
  }

  #moveDivider(split) {
    this.#split = split;
    this.divider.setPosition(split);
    this.left.map.render();
    this.on.split(split);
  }

  /** Clip each collection to its side of the divider, or remove the clips. */
  #clip(isDivided) {
    this.#clips.splice(0).forEach(unByKey);
    this.divider.element.hidden = !isDivided;
    if (isDivided) {
      this.divider.setPosition(this.#split);
      for (const slot of ["left", "right"]) {
        for (const layer of this.left.layersOf(slot)) {
          this.#clips.push(layer.on("prerender", ({ context }) => this.#clipContext(context, slot)), layer.on("postrender", ({ context }) => context.restore()));
        }
      }
    }
    this.left.map.render();
  }

  #clipContext(context, slot) {
    const { width, height } = context.canvas;
    const edge = this.#split * width;
    context.save();
    context.beginPath();
    context.rect(slot === "left" ? 0 : edge, 0, slot === "left" ? edge : width - edge, height);
    context.clip();
  }

  #setLabel(slot, entry) {
    this.labels[slot].hidden = !entry;
    if (entry) this.labels[slot].replaceChildren(h("span", { class: "swatch" }), entry.label);
  }
}

/** Whether the list is filtered. The statewide imagery shows the newest collections, not those that match a search. */
const isFiltered = ({ q, agency, year, type }) => Boolean(q || agency || year || type);

/** The line between two collections, moved by dragging or by the arrow keys. `onMove(split)`: share of the width. */
function createDivider(onMove) {
  const grip = h("span", { class: "grip", "aria-hidden": "true" });
  const element = h("div", { class: "divider", role: "slider", tabindex: 0, "aria-label": "Divider between the two collections", "aria-valuemin": 0, "aria-valuemax": 100, hidden: true }, grip);
  const setPosition = (split) => {
    element.style.left = `${split * 100}%`;
    element.setAttribute("aria-valuenow", Math.round(split * 100));
    element.setAttribute("aria-valuetext", `${Math.round(split * 100)} percent from the left`);
  };
  const moveTo = (split) => onMove(Math.min(1, Math.max(0, split)));
  const position = () => Number.parseFloat(element.style.left) / 100;
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
    element.focus();
  });
  element.addEventListener("pointermove", (event) => {
    if (!element.hasPointerCapture(event.pointerId)) return;
    const { left, width } = element.parentElement.getBoundingClientRect();
    moveTo((event.clientX - left) / width);
  });
  element.addEventListener("keydown", ({ key, shiftKey }) => {
    const step = shiftKey ? 5 * STEP : STEP;
    const target = { ArrowLeft: position() - step, ArrowRight: position() + step, Home: 0, End: 1 }[key];
    if (target !== undefined) moveTo(target);
  });
  return { element, setPosition };
}

