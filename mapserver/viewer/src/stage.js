// The map's place on the page: one map, or two under a divider or beside each other, all looking at the same ground.

import View from "ol/View.js";
import { getCenter } from "ol/extent.js";
import { unByKey } from "ol/Observable.js";
import { fromLonLat, toLonLat } from "ol/proj.js";
import { h } from "./dom.js";
import { Viewer, glide } from "./map.js";

const STEP = 0.02; // of the width, for one press of an arrow key on the divider

export class Stage {
  #clips = [];
  #split = 0.5;
  #right = null;

  /** `told` hears what people do: picked(entries, coordinate, slot, county), looked(view), moved(split), failed(entry). */
  constructor(place, told) {
    this.told = told;
    this.place = place;
    this.view = new View({ center: fromLonLat([-99.3, 31.4]), zoom: 6, minZoom: 4, maxZoom: 21, enableRotation: false });
    this.leftPane = h("div", { class: "pane", id: "map" });
    this.divider = divider((split) => this.#moved(split));
    this.labels = { left: h("p", { class: "side-label left", hidden: true }), right: h("p", { class: "side-label right", hidden: true }) };
    place.append(this.leftPane, this.divider.element, this.labels.left, this.labels.right);
    this.left = new Viewer(this.leftPane, this.view, "Map. Arrow keys move it, plus and minus zoom, Enter chooses what is in the middle.");
    this.#listen(this.left, "left");
    this.left.map.on("moveend", () => told.looked(this.looksAt()));
  }

  looksAt() {
    const [lon, lat] = toLonLat(this.view.getCenter());
    return { zoom: this.view.getZoom(), lat, lon };
  }

  lookAt({ zoom, lat, lon }) {
    this.view.cancelAnimations();
    this.view.setCenter(fromLonLat([lon, lat]));
    this.view.setZoom(zoom);
  }

  /** All that is drawn follows from the state: nothing is remembered between two calls but what saves loading. */
  show(chosen, compared, state, listed, held) {
    const side = Boolean(compared && state.side);
    this.#split = state.split;
    this.left.showOutlines(chosen ? [] : listed, chosen ? () => 0 : held, !chosen && !narrowed(state));
    this.left.showImagery("left", chosen, () => this.told.failed(chosen));
    this.left.showImagery("right", side ? null : compared, () => this.told.failed(compared));
    this.#sideBySide(side, compared);
    this.look(state);
    this.#clip(Boolean(compared) && !side);
    this.#name("left", compared ? chosen : null);
    this.#name("right", compared);
  }

  look(state) {
    for (const viewer of this.#viewers()) viewer.look(state);
  }

  /** Brings ground out from under a panel that lies over the map, when its middle is hidden. */
  reveal(extent, panel) {
    const [all, over] = [this.leftPane.getBoundingClientRect(), panel.getBoundingClientRect()];
    const below = over.width > all.width * 0.8; // a sheet, as on a phone
    const free = [below ? all.width : Math.min(all.width, over.left - all.left), below ? Math.max(80, over.top - all.top) : all.height];
    const middle = getCenter(extent);
    const [x, y] = this.left.map.getPixelFromCoordinate(middle) ?? free;
    if (x >= 0 && y >= 0 && x < free[0] && y < free[1]) return;
    const metres = this.view.getResolution();
    const center = [middle[0] + (all.width / 2 - free[0] / 2) * metres, middle[1] - (all.height / 2 - free[1] / 2) * metres];
    this.view.animate({ center, duration: glide() });
  }

  mark(geometry) {
    for (const viewer of this.#viewers()) viewer.mark(geometry);
  }

  recolour() {
    for (const viewer of this.#viewers()) viewer.recolour();
  }

  focus() {
    this.leftPane.focus();
  }

  #viewers() {
    return this.#right ? [this.left, this.#right] : [this.left];
  }

  #sideBySide(wanted, compared) {
    this.place.classList.toggle("side-by-side", wanted);
    if (wanted && !this.#right) {
      const pane = h("div", { class: "pane", id: "map-right" });
      this.leftPane.after(pane);
      this.#right = new Viewer(pane, this.view, "Second map. It moves with the first.");
      this.#listen(this.#right, "right");
    }
    if (!wanted && this.#right) {
      this.#right.map.setTarget(null);
      this.#right.target.remove();
      this.#right = null;
    }
    if (wanted) this.#right.showImagery("right", compared, () => this.told.failed(compared));
    for (const viewer of this.#viewers()) viewer.map.updateSize();
  }

  #listen(viewer, slot) {
    viewer.map.on("singleclick", ({ pixel, coordinate }) => this.#pick(viewer, pixel, coordinate, slot));
    viewer.map.on("pointermove", ({ pixel, dragging }) => {
      if (dragging) return;
      const [entry] = viewer.collectionsAt(pixel);
      viewer.target.classList.toggle("pickable", Boolean(entry ?? viewer.countyAt(pixel)));
      this.told.hovered(entry ?? null);
    });
    viewer.target.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const middle = this.view.getCenter();
      this.#pick(viewer, viewer.map.getPixelFromCoordinate(middle), middle, slot);
    });
  }

  /** Under a divider the place decides which of the two collections is meant. */
  #pick(viewer, pixel, coordinate, slot) {
    const beyond = !this.divider.element.hidden && pixel[0] > this.#split * viewer.map.getSize()[0];
    this.told.picked(viewer.collectionsAt(pixel), coordinate, beyond ? "right" : slot, viewer.countyAt(pixel));
  }

  #moved(split) {
    this.#split = split;
    this.divider.place(split);
    this.left.map.render();
    this.told.moved(split);
  }

  /** Left of the divider the left collection is drawn, right of it the right one. */
  #clip(wanted) {
    this.#clips.splice(0).forEach(unByKey);
    this.divider.element.hidden = !wanted;
    if (wanted) {
      this.divider.place(this.#split);
      for (const slot of ["left", "right"]) {
        for (const layer of this.left.layersOf(slot)) {
          this.#clips.push(layer.on("prerender", ({ context }) => this.#cut(context, slot)), layer.on("postrender", ({ context }) => context.restore()));
        }
      }
    }
    this.left.map.render();
  }

  #cut(context, slot) {
    const { width, height } = context.canvas;
    const at = this.#split * width;
    context.save();
    context.beginPath();
    context.rect(slot === "left" ? 0 : at, 0, slot === "left" ? at : width - at, height);
    context.clip();
  }

  #name(slot, entry) {
    this.labels[slot].hidden = !entry;
    if (entry) this.labels[slot].replaceChildren(h("span", { class: "swatch" }), entry.label);
  }
}

/** The statewide imagery shows whatever is newest: not what a search for something else leaves. */
const narrowed = ({ q, agency, year, type }) => Boolean(q || agency || year || type);

/** The line between two years: dragged, or moved by the arrow keys. */
function divider(moved) {
  const grip = h("span", { class: "grip", "aria-hidden": "true" });
  const element = h("div", { class: "divider", role: "slider", tabindex: 0, "aria-label": "Divider between the two collections", "aria-valuemin": 0, "aria-valuemax": 100, hidden: true }, grip);
  const place = (split) => {
    element.style.left = `${split * 100}%`;
    element.setAttribute("aria-valuenow", Math.round(split * 100));
    element.setAttribute("aria-valuetext", `${Math.round(split * 100)} percent from the left`);
  };
  const to = (split) => moved(Math.min(1, Math.max(0, split)));
  const at = () => Number.parseFloat(element.style.left) / 100;
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    event.preventDefault();
    element.focus();
  });
  element.addEventListener("pointermove", (event) => {
    if (!element.hasPointerCapture(event.pointerId)) return;
    const { left, width } = element.parentElement.getBoundingClientRect();
    to((event.clientX - left) / width);
  });
  element.addEventListener("keydown", ({ key, shiftKey }) => {
    const step = shiftKey ? 5 * STEP : STEP;
    const wanted = { ArrowLeft: at() - step, ArrowRight: at() + step, Home: 0, End: 1 }[key];
    if (wanted !== undefined) to(wanted);
  });
  return { element, place };
}

