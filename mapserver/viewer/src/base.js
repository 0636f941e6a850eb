// The base map under the photographs: land, county lines and names, a graticule. All vector data of this page; no external tiles.

import GeoJSON from "ol/format/GeoJSON.js";
import TopoJSON from "ol/format/TopoJSON.js";
import Graticule from "ol/layer/Graticule.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import { Fill, Stroke, Style, Text } from "ol/style.js";

const MIN_RESOLUTION = 60; // meters per pixel: closer up the county lines are too coarse to be shown with photographs

const states = new VectorSource();
const counties = new VectorSource();

/** Fetch the archive's base map once. Its areas are in the layers `states` (land) and `counties`. Without it the map still works. */
export async function loadBase(address) {
  const response = address && (await fetch(address));
  if (!response?.ok) return;
  const document = await response.json();
  const format = document.type === "Topology" ? new TopoJSON({ layerName: "layer" }) : new GeoJSON();
  const areas = format.readFeatures(document, { featureProjection: "EPSG:3857" });
  states.addFeatures(areas.filter((area) => area.get("layer") === "states"));
  counties.addFeatures(areas.filter((area) => area.get("layer") === "counties"));
}

/** A county's name as the archive writes it: "San José" is SanJose. */
export const archiveName = (county) => county.get("name").normalize("NFD").replaceAll(/[^A-Za-z0-9]/g, "");

/** The layers of one map. `countOf(county)`: number of listed collections in a county. `showsCounts()`: whether to print it. */
export function baseLayers(color, countOf, showsCounts) {
  const land = new VectorLayer({
    source: states,
    style: () => new Style({ fill: new Fill({ color: color("land") }), stroke: new Stroke({ color: color("state-line"), width: 1 }) }),
  });
  const shaded = new VectorLayer({
    source: counties,
    style: (county) => {
      const count = countOf(county);
      return new Style({
        fill: new Fill({ color: count ? `rgb(${color("filled")} / ${showsCounts() ? 0.12 + 0.05 * Math.min(count, 10) : 0.1})` : color("county") }),
        stroke: new Stroke({ color: color("county-line"), width: 0.8 }),
      });
    },
    minResolution: MIN_RESOLUTION,
  });
  const graticule = new Graticule({
    strokeStyle: new Stroke({ color: color("graticule"), width: 1 }),
    showLabels: false,
    wrapX: false,
    targetSize: 160,
  });
  const names = new VectorLayer({
    source: counties,
    declutter: true,
    zIndex: 25,
    minResolution: MIN_RESOLUTION,
    maxResolution: 1300,
    style: (county) => {
      const count = countOf(county);
      return new Style({
        text: new Text({
          text: county.get("name") + (count && showsCounts() ? `\n${count}` : ""),
          font: `${count ? 600 : 400} ${count ? 13 : 12}px "Source Sans 3", sans-serif`,
          fill: new Fill({ color: color(count ? "name-filled" : "name") }),
          stroke: new Stroke({ color: color("halo"), width: 3 }),
          overflow: false,
        }),
        zIndex: count ? 1 : 0,
      });
    },
  });
  return { shaded, layers: [land, shaded, graticule, names], redraw: () => [land, shaded, names].forEach((layer) => layer.changed()) };
}
