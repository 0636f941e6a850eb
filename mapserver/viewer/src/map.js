// One OpenLayers map over the base map: outlines of collections to select from, or imagery and footprints of one or two collections.

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
import { retryTiles } from "./tile_retry.js";

const MAX_TILE_ZOOM = 21; // zoom of the finest tiles requested; closer up they are enlarged
const IMAGERY_BELOW = 150; // meters per pixel: when zoomed out further, the statewide map draws outlines only
const MIN_HIGH_DENSITY = 1.3; // device pixels per CSS pixel from which tiles of 512 pixels are requested
const MAX_OUTLINES = 40; // more outlines than this clutter the statewide map; counties are shaded by their number instead
const OUTLINES_BELOW = 200; // meters per pixel: closer up, all outlines are drawn
const MIN_OUTLINE_PX = 10; // a collection that is drawn smaller than this gets a dot

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--map-${name}`).trim();

/** Milliseconds of a map animation; 0 for users who prefer reduced motion. */
export const animationDuration = () => (reducedMotion.matches ? 0 : 350);

export class Viewer {
  #countOf = () => 0;
  #isCrowded = false;
  #highlighted = null;
  #base;
  #imagery = new Map(); // by slot, "left" or "right": {entry, layer, footprints}
  #outlines = new VectorSource();
  #statewide = new TileLayer({ source: new XYZ({ url: "/tiles/catalog/{z}/{x}/{y}.webp", maxZoom: MAX_TILE_ZOOM }), maxResolution: IMAGERY_BELOW, zIndex: 9 });
  #marked = new VectorSource();

  /** `onMissing(name, count, retryAll)`: the number of tiles that cannot be loaded has changed; see `tile_retry.js`. */
  constructor(target, view, label, onMissing) {
    this.target = target;
    this.onMissing = onMissing;
    retryTiles(this.#statewide.getSource(), { missing: (count, retryAll) => onMissing("the map of all collections", count, retryAll) });
    this.#base = baseLayers(color, (county) => this.#countOf(county), () => this.#isCrowded);
    this.outlineLayer = new VectorLayer({ source: this.#outlines, zIndex: 20, style: (feature, resolution) => this.#outlineStyle(feature, resolution) });
    const marked = new VectorLayer({ source: this.#marked, zIndex: 30, style: MARK_STYLE });
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

  /** Draw collections to select from. `countOf(county)`: for shading. `isStatewide`: draw the imagery of all of them, when zoomed in. */
  showOutlines(entries, countOf, isStatewide) {
    this.#countOf = countOf;
    this.#isCrowded = entries.length > MAX_OUTLINES;
    this.#statewide.setVisible(isStatewide);
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

  /** Highlight the outline of a collection; null for none. */
  highlight(entry) {
    this.#highlighted = entry;
    this.outlineLayer.changed();
  }

  /** Collections whose outline or dot is at a pixel. */
  collectionsAt(pixel) {
    const features = this.map.getFeaturesAtPixel(pixel, { hitTolerance: 5, layerFilter: (layer) => layer === this.outlineLayer });
    return [...new Set(features.map((feature) => feature.get("entry")))];
  }

  /** The county at a pixel, if it has listed collections; otherwise null. */
  countyAt(pixel) {
    const [county] = this.map.getFeaturesAtPixel(pixel, { layerFilter: (layer) => layer === this.#base.shaded });
    return county && this.#countOf(county) ? county : null;
  }

  /** Draw a collection in a slot ("left", "right"); null empties the slot. */
  showImagery(slot, entry) {
    const current = this.#imagery.get(slot);
    if (current?.entry === entry) return;
    if (current) {
      current.layer.setSource(null);
      this.map.removeLayer(current.layer);
      this.map.removeLayer(current.footprints);
      this.#imagery.delete(slot);
    }
    if (!entry) return;
    const layer = new TileLayer({ extent: entry.extent, zIndex: slot === "left" ? 10 : 11, preload: 1 });
    const footprints = new VectorTileLayer({
      extent: entry.extent,
      zIndex: slot === "left" ? 12 : 13,
      declutter: false,
      source: new VectorTileSource({ format: new MVT(), url: footprintTiles(entry), maxZoom: 16 }),
      style: [
        new Style({ stroke: new Stroke({ color: "rgba(255,255,255,.55)", width: 3 }) }),
        new Style({ stroke: new Stroke({ color: slot === "left" ? "#c2410c" : "#0b63a5", width: 1.4 }) }),
      ],
    });
    this.map.addLayer(layer);
    this.map.addLayer(footprints);
    this.#imagery.set(slot, { entry, layer, footprints });
    this.#loadImagery(layer, entry);
  }

  /** Give the layer a source: tiles or, for a map without tiles, WMS. The source is watched until the layer gets another. */
  async #loadImagery(layer, entry) {
    const isHighDensity = devicePixelRatio > MIN_HIGH_DENSITY && !navigator.connection?.saveData;
    const nativeZoom = isHighDensity ? await findNativeZoom(entry) : 0;
    if (![...this.#imagery.values()].some((imagery) => imagery.layer === layer)) return;
    const missing = (count, retryAll) => this.onMissing(entry.label, count, retryAll);
    const watch = (source, on) => {
      layer.setSource(source);
      const end = retryTiles(source, on);
      layer.once("change:source", end);
    };
    watch(tileSource(entry, nativeZoom), { missing, absent: () => watch(wmsSource(entry), { missing }) });
  }

  layersOf(slot) {
    const current = this.#imagery.get(slot);
    return current ? [current.layer, current.footprints] : [];
  }

  setDisplay({ opacity, footprints }) {
    for (const imagery of this.#imagery.values()) {
      imagery.layer.setOpacity(opacity);
      imagery.footprints.setVisible(footprints);
    }
  }

  /** Mark the outline of the selected frame; null for none. */
  mark(geometry) {
    this.#marked.clear();
    if (geometry) this.#marked.addFeature(new Feature(geometry));
  }

  recolor() {
    this.#base.redraw();
    this.outlineLayer.changed();
  }

  fit(extent, options = {}) {
    this.map.getView().fit(extent, { padding: [40, 40, 40, 40], duration: animationDuration(), ...options });
  }

  #outlineStyle(feature, resolution) {
    const entry = feature.get("entry");
    const isHighlighted = entry === this.#highlighted;
    if (this.#isCrowded && entry.county && resolution > OUTLINES_BELOW && !isHighlighted) return null;
    const stroke = new Stroke({ color: color(isHighlighted ? "highlight" : "outline"), width: isHighlighted ? 3 : 1.4 });
    // Over the statewide imagery the fill is almost transparent: it only makes the outline clickable.
    const isOverImagery = resolution < IMAGERY_BELOW && this.#statewide.getVisible();
    const fill = new Fill({ color: isOverImagery ? "rgb(0 0 0 / 1%)" : color(isHighlighted ? "highlight-fill" : "outline-fill") });
    const size = Math.max(getWidth(entry.extent), getHeight(entry.extent)) / resolution;
    const shape = new Style({ stroke, fill, zIndex: isHighlighted ? 1 : 0 });
    if (size > MIN_OUTLINE_PX) return shape;
    const dot = new Circle({ radius: isHighlighted ? 8 : 6, fill: new Fill({ color: color(isHighlighted ? "highlight" : "outline") }), stroke: new Stroke({ color: "#fff", width: 2 }) });
    return new Style({ image: dot, geometry: new Point(getCenter(entry.extent)), zIndex: isHighlighted ? 1 : 0 });
  }
}

const MARK_STYLE = [
  new Style({ stroke: new Stroke({ color: "#fff", width: 6 }) }),
  new Style({ stroke: new Stroke({ color: "#ffb000", width: 3 }) }),
];

/** XYZ tiles: of 512 pixels above `nativeZoom`. From there on they would only enlarge the pixels of the photographs. */
function tileSource(entry, nativeZoom) {
  const [standard, double] = [entry.tiles(""), entry.tiles("@2x")];
  const tileUrlFunction = ([z, x, y]) => (z < nativeZoom ? double : standard).replace("{z}", z).replace("{x}", x).replace("{y}", y);
  return new XYZ({ tileUrlFunction, tilePixelRatio: nativeZoom ? 2 : 1, maxZoom: MAX_TILE_ZOOM, transition: reducedMotion.matches ? 0 : 200 });
}

/** The zoom whose tiles show every pixel of the photographs; 0 if the map does not say. */
async function findNativeZoom(entry) {
  try {
    return (await (await fetch(`/tiles/${entry.table}/tilejson.json`)).json()).maxzoom;
  } catch {
    return 0;
  }
}

function wmsSource(entry) {
  const params = { LAYERS: entry.name, VERSION: "1.1.1", STYLES: "", FORMAT: "image/png", TRANSPARENT: "TRUE" };
  return new TileWMS({ url: `/wms/${entry.table}`, params, transition: reducedMotion.matches ? 0 : 200 });
}

function footprintTiles(entry) {
  return `/wms/${entry.table}?mode=tile&tilemode=gmap&tile={x}+{y}+{z}&layers=${entry.name}_index&map.imagetype=mvt`;
}
