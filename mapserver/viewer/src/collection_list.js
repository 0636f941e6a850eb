// The list of collections, as /collections.json gives it, and how it is searched. Pure but for `load`.

const TYPES = { frames: "frames", index: "index sheets", mosaic: "mosaic" };

/** Raises an Error whose message is for people. */
export async function load() {
  let answer;
  try {
    answer = await fetch("/collections.json", { cache: "no-cache" });
  } catch {
    throw new Error("The server does not answer: check the connection, then try again.");
  }
  if (!answer.ok) throw new Error("The list of collections cannot be read at the moment: try again in a few seconds.");
  const { collections } = await answer.json();
  return collections.map(described).sort(inOrder);
}

/** A collection with the words that the page shows and searches. */
function described(entry) {
  const place = entry.county ? words(entry.county) : entry.name.slice(0, -entry.type.length - 1).replaceAll("_", " ");
  const parts = entry.county ? [place, entry.agency, entry.year] : [place, place.includes(entry.year) ? null : entry.year];
  const label = parts.filter(Boolean).join(" · ");
  const decade = entry.year ? `${entry.year - (entry.year % 10)}s` : "";
  const text = [place, entry.agency, label, entry.name, entry.shard, TYPES[entry.type], decade].join(" ").toLowerCase();
  const version = entry.version === undefined || entry.version === null ? "" : `?v=${encodeURIComponent(entry.version)}`;
  return {
    ...entry,
    place,
    label,
    kind: TYPES[entry.type],
    decade,
    terms: text.split(/[\s·_]+/),
    tiles: (scale) => `/tiles/${entry.table}/{z}/{x}/{y}${scale}.png${version}`,
  };
}

/** VanZandt is written Van Zandt; McLennan and DeWitt are not parted. */
export function words(name) {
  return name.replace(/(?<!\bMc|\bDe)(?<=[a-z])(?=[A-Z])/g, " ");
}

function inOrder(a, b) {
  return a.place.localeCompare(b.place) || (a.year ?? 9999) - (b.year ?? 9999) || a.name.localeCompare(b.name);
}

/** Each facet: how a collection's value is read, and what a person may choose. */
export const FACETS = {
  county: { label: "County", of: (entry) => [entry.county].filter(Boolean), show: words },
  agency: { label: "Agency", of: (entry) => [entry.agency].filter(Boolean), show: (value) => value },
  year: { label: "Year", of: (entry) => [entry.decade, entry.year && String(entry.year)].filter(Boolean), show: (value) => value },
  type: { label: "Type", of: (entry) => [entry.type], show: (value) => TYPES[value] ?? value },
};

/** Collections that match the words (each must begin a word of the collection), all chosen facets and the place. */
export function search(collections, { q, at, ...chosen }, without = null) {
  const wanted = q.toLowerCase().split(/[\s·_,]+/).filter(Boolean);
  const facets = Object.entries(FACETS).filter(([name]) => chosen[name] && name !== without);
  return collections.filter(
    (entry) =>
      wanted.every((word) => entry.terms.some((term) => term.startsWith(word))) &&
      facets.every(([name, { of }]) => of(entry).includes(chosen[name])) &&
      (!at || covers(entry, at)),
  );
}

/** The values of a facet among what the other facets leave, with the number of collections of each. */
export function choices(collections, state, name) {
  const found = new Map();
  for (const entry of search(collections, state, name)) {
    for (const value of FACETS[name].of(entry)) found.set(value, (found.get(value) ?? 0) + 1);
  }
  return [...found].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
}

/** Collections that share ground with this one: its other years first. */
export function neighbours(collections, of) {
  const overlapping = collections.filter((entry) => entry !== of && overlap(entry.extent, of.extent));
  const rank = (entry) => (entry.type === of.type ? 0 : 1);
  return overlapping.sort((a, b) => rank(a) - rank(b) || (a.year ?? 9999) - (b.year ?? 9999));
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

function covers(entry, at) {
  const [x, y] = at.split(",").map(Number);
  const [minx, miny, maxx, maxy] = entry.extent;
  return x >= minx && x <= maxx && y >= miny && y <= maxy;
}

/** The addresses that other programs take. */
export function services(entry) {
  const origin = location.origin;
  return [
    ["WMS", "QGIS, ArcGIS: add WMS layer", `${origin}/wms/${entry.table}`],
    ["XYZ tiles", "QGIS, web maps: add XYZ layer", `${origin}/tiles/${entry.table}/{z}/{x}/{y}.png`],
    ["TileJSON", "MapLibre, Leaflet and others", `${origin}/tiles/${entry.table}/tilejson.json`],
    ["WMTS", "ArcGIS: add WMTS server", `${origin}/wmts/${entry.table}/WMTSCapabilities.xml`],
    ["OGC API Features", "QGIS: footprints and links", `${origin}/ogcapi/${entry.table}`],
  ];
}

/** What a band is called. */
export const FILM = { bw: "black and white", nc: "colour" };

/** The files of the whole collection: its index, and once there are some, its exports. */
export function files(entry) {
  const made = entry.exports;
  const mosaics = Object.entries(made?.mosaics ?? {});
  return [
    ["Tile index", "outlines and links, zipped shapefile", entry.index],
    ["GeoJSON", "outlines and links, for web maps and scripts", made?.geojson],
    ["GeoParquet", "the same, for analysis", made?.parquet],
    ["STAC collection", "every photograph with its files and checksums", made?.stac],
    ...mosaics.map(([band, address]) => [mosaics.length > 1 ? `Mosaic for GDAL, ${FILM[band]}` : "Mosaic for GDAL", "all photographs as one raster, opened where they lie", address]),
  ].filter(([, , address]) => address);
}
