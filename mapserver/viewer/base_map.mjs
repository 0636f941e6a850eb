// Writes a base map of one U.S. state for an archive file: `npm run base-map -- <FIPS code of the state> <file>`.
//
// The file has the states and the counties of one of them, as a small TopoJSON. The lines are from the U.S. Census Bureau, through
// us-atlas. An archive elsewhere needs no program: the page reads any TopoJSON or GeoJSON (src/base.js).

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { filter, presimplify, quantile, simplify } from "topojson-simplify";
import { quantize } from "topojson-client";

const COUNTY_LINES = 0.1; // share of the points that is kept: a county is at most a few hundred pixels wide
const DISTANT_STATES = new Set(["02", "15", "60", "66", "69", "72", "78"]); // states and territories outside the map

const [state, file] = process.argv.slice(2);
if (!/^\d\d$/.test(state ?? "") || !file) throw new Error("Give the two digits of the state's FIPS code and the file to write.");
const require = createRequire(import.meta.url);
writeFileSync(file, baseMap());

function baseMap() {
  const atlas = JSON.parse(readFileSync(require.resolve("us-atlas/counties-10m.json")));
  const { states, counties } = atlas.objects;
  states.geometries = states.geometries.filter(({ id }) => !DISTANT_STATES.has(id));
  counties.geometries = counties.geometries.filter((county) => county.id.startsWith(state));
  delete atlas.objects.nation;
  const plain = filter({ ...atlas, bbox: undefined, transform: undefined, arcs: decodeArcs(atlas) });
  const weighed = presimplify(plain);
  const small = simplify(weighed, quantile(weighed, 1 - COUNTY_LINES));
  return JSON.stringify(quantize(small, 1e5));
}

/** The arcs as longitude and latitude: TopoJSON stores them as differences of integers. */
function decodeArcs({ arcs, transform: { scale, translate } }) {
  return arcs.map((arc) => {
    let [x, y] = [0, 0];
    return arc.map(([dx, dy]) => [(x += dx) * scale[0] + translate[0], (y += dy) * scale[1] + translate[1]]);
  });
}
