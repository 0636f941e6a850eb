// What lies under the photographs: land, county lines and names, a graticule. Vector data of this page's own; no outside tiles.

import TopoJSON from "ol/format/TopoJSON.js";
import Graticule from "ol/layer/Graticule.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import { Fill, Stroke, Style, Text } from "ol/style.js";

/* global BASE_ADDRESS */

const FINEST = 60; // metres a pixel: nearer than that the county lines are too coarse to be shown beside photographs

const states = new VectorSource();
const counties = new VectorSource();

/** Fetched once; without it the map is plain but works. */
export async function loadBase() {
  const answer = await fetch(BASE_ADDRESS);
  if (!answer.ok) return;
  const read = new TopoJSON({ layerName: "layer" }).readFeatures(await answer.json(), { featureProjection: "EPSG:3857" });
  states.addFeatures(read.filter((area) => area.get("layer") === "states"));
  counties.addFeatures(read.filter((area) => area.get("layer") === "counties"));
}

/** A county's name as the archive writes it: VanZandt. */
export const archiveName = (county) => county.get("name").replaceAll(/[^A-Za-z]/g, "");

/** Layers for one map; `held(county)` says how many of the listed collections show this county, `counting()` whether to tell. */
export function baseLayers(colour, held, counting) {
  const land = new VectorLayer({
    source: states,
    style: () => new Style({ fill: new Fill({ color: colour("land") }), stroke: new Stroke({ color: colour("state-line"), width: 1 }) }),
  });
  const shaded = new VectorLayer({
    source: counties,
    style: (county) => {
      const count = held(county);
      return new Style({
        fill: new Fill({ color: count ? `rgb(${colour("held")} / ${counting() ? 0.12 + 0.05 * Math.min(count, 10) : 0.1})` : colour("county") }),
        stroke: new Stroke({ color: colour("county-line"), width: 0.8 }),
      });
    },
    minResolution: FINEST,
  });
  const graticule = new Graticule({
    strokeStyle: new Stroke({ color: colour("graticule"), width: 1 }),
    showLabels: false,
    wrapX: false,
    targetSize: 160,
  });
  const names = new VectorLayer({
    source: counties,
    declutter: true,
    zIndex: 25,
    minResolution: FINEST,
    maxResolution: 1300,
    style: (county) => {
      const count = held(county);
      return new Style({
        text: new Text({
          text: county.get("name") + (count && counting() ? `\n${count}` : ""),
          font: `${count ? 600 : 400} ${count ? 13 : 12}px "Source Sans 3", sans-serif`,
          fill: new Fill({ color: colour(count ? "name-held" : "name") }),
          stroke: new Stroke({ color: colour("halo"), width: 3 }),
          overflow: false,
        }),
        zIndex: count ? 1 : 0,
      });
    },
  });
  return { shaded, layers: [land, shaded, graticule, names], redraw: () => [land, shaded, names].forEach((layer) => layer.changed()) };
}

