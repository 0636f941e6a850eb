// One map over the plain base: outlines of collections to choose from, or the imagery and footprints of one or two of them.

import Feature from "ol/Feature.js";
import OlMap from "ol/Map.js";
import MVT from "ol/format/MVT.js";
import Point from "ol/geom/Point.js";
import { fromExtent } from "ol/geom/Polygon.js";
import { defaults as controls } from "ol/control/defaults.js";
import ScaleLine from "ol/control/ScaleLine.js";
import { getCenter, getHeight, getWidth } from "ol/extent.js";
import { defaults as interactions } from "ol/interaction/defaults.js";
import TileLayer from "ol/layer/Tile.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorTileLayer from "ol/layer/VectorTile.js";
import TileWMS from "ol/source/TileWMS.js";
import VectorSource from "ol/source/Vector.js";
import VectorTileSource from "ol/source/VectorTile.js";
import XYZ from "ol/source/XYZ.js";
import { Circle, Fill, Stroke, Style } from "ol/style.js";
import { baseLayers } from "./base.js";

const NATIVE = 21; // zoom of the finest tiles asked for; nearer ones are enlarged
const IMAGERY_BELOW = 150; // metres a pixel: farther out the statewide map draws outlines only
const FEW = 40; // outlines that can be told apart on a statewide view; of more, counties are shaded by their number
const FAR = 200; // metres a pixel
const TOO_SMALL = 10; // pixels: a collection that is drawn smaller than that gets a dot

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--map-${name}`).trim();

/** Milliseconds that a movement of the map takes; none for people who asked for less motion. */
export const glide = () => (calm.matches ? 0 : 350);

export class Viewer {
  #held = () => 0;
  #many = false;
  #lit = null;
  #base;
  #imagery = new Map(); // by slot, left or right: {entry, layer, footprints}
  #outlines = new VectorSource();
  #statewide = new TileLayer({ source: new XYZ({ url: "/tiles/catalog/{z}/{x}/{y}.png", maxZoom: NATIVE }), maxResolution: IMAGERY_BELOW, zIndex: 9 });
  #marked = new VectorSource();

  constructor(target, view, label) {
    this.target = target;
    this.#base = baseLayers(colour, (county) => this.#held(county), () => this.#many);
    this.outlineLayer = new VectorLayer({ source: this.#outlines, zIndex: 20, style: (feature, resolution) => this.#outline(feature, resolution) });
    const marked = new VectorLayer({ source: this.#marked, zIndex: 30, style: highlight });
    this.map = new OlMap({
      target,
      view,
      layers: [...this.#base.layers, this.#statewide, this.outlineLayer, marked],
      controls: controls({ attribution: false, rotate: false }).extend([new ScaleLine({ units: "metric" })]),
      interactions: interactions({ altShiftDragRotate: false, pinchRotate: false }),
    });
    this.map.on("loadstart", () => target.setAttribute("aria-busy", "true"));
    this.map.on("loadend", () => target.setAttribute("aria-busy", "false"));
    target.tabIndex = 0;
    target.setAttribute("role", "application");
    target.setAttribute("aria-roledescription", "map");
    target.setAttribute("aria-label", label);
  }

  /** Collections to choose from; `statewide`: over the imagery of them all, where it is near enough to be seen. */
  showOutlines(entries, held, statewide) {
    this.#held = held;
    this.#many = entries.length > FEW;
    this.#statewide.setVisible(statewide);
    this.#outlines.clear(true);
    this.#outlines.addFeatures(
      entries.map((entry) => {
        const feature = new Feature(fromExtent(entry.extent));
        feature.set("entry", entry, true);
        return feature;
      }),
    );
    this.#base.redraw();
  }

  light(entry) {
    this.#lit = entry;
    this.outlineLayer.changed();
  }

  /** Collections whose outline, or dot, is at a pixel. */
  collectionsAt(pixel) {
    const found = this.map.getFeaturesAtPixel(pixel, { hitTolerance: 5, layerFilter: (layer) => layer === this.outlineLayer });
    return [...new Set(found.map((feature) => feature.get("entry")))];
  }

  /** The county at a pixel, when it holds collections of the list. */
  countyAt(pixel) {
    const [county] = this.map.getFeaturesAtPixel(pixel, { layerFilter: (layer) => layer === this.#base.shaded });
    return county && this.#held(county) ? county : null;
  }

  /** The imagery in a slot ("left", "right"); null empties it. `failed` is called when no tile of it can be had. */
  showImagery(slot, entry, failed) {
    const shown = this.#imagery.get(slot);
    if (shown?.entry === entry) return;
    if (shown) {
      this.map.removeLayer(shown.layer);
      this.map.removeLayer(shown.footprints);
      this.#imagery.delete(slot);
    }
    if (!entry) return;
    const layer = new TileLayer({ extent: entry.extent, zIndex: slot === "left" ? 10 : 11, preload: 1 });
    layer.setSource(tiles(entry, () => layer.setSource(viaWms(entry, failed))));
    const footprints = new VectorTileLayer({
      extent: entry.extent,
      zIndex: slot === "left" ? 12 : 13,
      declutter: false,
      source: new VectorTileSource({ format: new MVT(), url: outlineTiles(entry), maxZoom: 16 }),
      style: [
        new Style({ stroke: new Stroke({ color: "rgba(255,255,255,.55)", width: 3 }) }),
        new Style({ stroke: new Stroke({ color: slot === "left" ? "#c2410c" : "#0b63a5", width: 1.4 }) }),
      ],
    });
    this.map.addLayer(layer);
    this.map.addLayer(footprints);
    this.#imagery.set(slot, { entry, layer, footprints });
  }

  layersOf(slot) {
    const shown = this.#imagery.get(slot);
    return shown ? [shown.layer, shown.footprints] : [];
  }

  look({ opacity, footprints }) {
    for (const shown of this.#imagery.values()) {
      shown.layer.setOpacity(opacity);
      shown.footprints.setVisible(footprints);
    }
  }

  /** The outline of the frame that is looked at. */
  mark(geometry) {
    this.#marked.clear();
    if (geometry) this.#marked.addFeature(new Feature(geometry));
  }

  recolour() {
    this.#base.redraw();
    this.outlineLayer.changed();
  }

  fit(extent, more = {}) {
    this.map.getView().fit(extent, { padding: [40, 40, 40, 40], duration: glide(), ...more });
  }

  #outline(feature, resolution) {
    const entry = feature.get("entry");
    const lit = entry === this.#lit;
    if (this.#many && entry.county && resolution > FAR && !lit) return null;
    const stroke = new Stroke({ color: colour(lit ? "lit" : "outline"), width: lit ? 3 : 1.4 });
    // Over the statewide imagery hardly anything is filled: just enough that a click finds it.
    const clear = resolution < IMAGERY_BELOW && this.#statewide.getVisible();
    const fill = new Fill({ color: clear ? "rgb(0 0 0 / 1%)" : colour(lit ? "lit-fill" : "outline-fill") });
    const size = Math.max(getWidth(entry.extent), getHeight(entry.extent)) / resolution;
    const shape = new Style({ stroke, fill, zIndex: lit ? 1 : 0 });
    if (size > TOO_SMALL) return shape;
    const dot = new Circle({ radius: lit ? 8 : 6, fill: new Fill({ color: colour(lit ? "lit" : "outline") }), stroke: new Stroke({ color: "#fff", width: 2 }) });
    return new Style({ image: dot, geometry: new Point(getCenter(entry.extent)), zIndex: lit ? 1 : 0 });
  }
}

const highlight = [
  new Style({ stroke: new Stroke({ color: "#fff", width: 6 }) }),
  new Style({ stroke: new Stroke({ color: "#ffb000", width: 3 }) }),
];

/** XYZ tiles; `rejected` when the first ones all fail. */
function tiles(entry, rejected) {
  const fine = devicePixelRatio > 1.3;
  const url = entry.tiles(fine ? "@2x" : "");
  return watched(new XYZ({ url, tilePixelRatio: fine ? 2 : 1, maxZoom: NATIVE, transition: calm.matches ? 0 : 200 }), rejected);
}

function viaWms(entry, failed) {
  const params = { LAYERS: entry.name, VERSION: "1.1.1", STYLES: "", FORMAT: "image/png", TRANSPARENT: "TRUE" };
  return watched(new TileWMS({ url: `/wms/${entry.table}`, params, transition: calm.matches ? 0 : 200 }), failed);
}

function watched(source, failed) {
  let [good, bad] = [0, 0];
  source.on("tileloadend", () => good++);
  source.on("tileloaderror", () => {
    bad++;
    if (!good && bad === 3) failed();
  });
  return source;
}

function outlineTiles(entry) {
  return `/wms/${entry.table}?mode=tile&tilemode=gmap&tile={x}+{y}+{z}&layers=${entry.name}_index&map.imagetype=mvt`;
}
