// The list of collections from /collections.json, and its search. Pure except for `load`; the panels are in `browse.js` and `collection.js`.

const TYPES = { frames: "frames", index: "index sheets", mosaic: "mosaic" };

/** The sorted list. Throws an Error whose message is shown to the user. */
export async function load() {
  let response;
  try {
    response = await fetch("/collections.json", { cache: "no-cache" });
  } catch {
    throw new Error("The server is not responding: check your connection, then try again.");
  }
  if (!response.ok) throw new Error("The list of collections cannot be read: try again in a few seconds.");
  const { collections, film_types: titles = {} } = await response.json();
  return collections.map((entry) => describe(entry, titles)).sort(compareEntries);
}

/** An entry with the words that the page shows and searches. `titles`: of film types, which the list calls `bands`. */
function describe(entry, titles) {
  const films = Object.fromEntries((entry.bands ?? []).map((filmType) => [filmType, titles[filmType] ?? filmType]));
  const place = entry.county ? splitWords(entry.county) : entry.name.slice(0, -entry.type.length - 1).replaceAll("_", " ");
  const parts = entry.county ? [place, entry.agency, entry.year] : [place, place.includes(entry.year) ? null : entry.year];
  const label = parts.filter(Boolean).join(" · ");
  const decade = entry.year ? `${entry.year - (entry.year % 10)}s` : "";
  const text = [place, entry.agency, label, entry.name, entry.shard, TYPES[entry.type], decade, ...Object.values(films)].join(" ").toLowerCase();
  const version = entry.version === undefined || entry.version === null ? "" : `?v=${encodeURIComponent(entry.version)}`;
  return {
    ...entry,
    place,
    label,
    kind: TYPES[entry.type],
    decade,
    films,
    terms: text.split(/[\s·_]+/),
    tiles: (scale) => `/tiles/${entry.table}/{z}/{x}/{y}${scale}.webp${version}`,
  };
}

/** SaintPaul becomes Saint Paul; McHenry and DeKalb stay as they are. */
export function splitWords(name) {
  return name.replace(/(?<!\bMc|\bDe)(?<=[a-z])(?=[A-Z])/g, " ");
}

function compareEntries(a, b) {
  return a.place.localeCompare(b.place) || (a.year ?? 9999) - (b.year ?? 9999) || a.name.localeCompare(b.name);
}

/** Each facet: its label, its values in an entry, and how a value is shown; `collections` has the titles of film types. */
export const FACETS = {
  county: { label: "County", values: (entry) => [entry.county].filter(Boolean), format: splitWords },
  agency: { label: "Agency", values: (entry) => [entry.agency].filter(Boolean), format: (value) => value },
  year: { label: "Year", values: (entry) => [entry.decade, entry.year && String(entry.year)].filter(Boolean), format: (value) => value },
  type: { label: "Type", values: (entry) => [entry.type], format: (value) => TYPES[value] ?? value },
  film: { label: "Film", values: (entry) => Object.keys(entry.films), format: (value, collections) => collections.find(({ films }) => films[value])?.films[value] ?? value },
};

/** Collections that match all words (as beginnings of words), all selected facets except `ignored`, and the place. */
export function search(collections, { q, at, ...selected }, ignored = null) {
  const words = q.toLowerCase().split(/[\s·_,]+/).filter(Boolean);
  const facets = Object.entries(FACETS).filter(([name]) => selected[name] && name !== ignored);
  return collections.filter(
    (entry) =>
      words.every((word) => entry.terms.some((term) => term.startsWith(word))) &&
      facets.every(([name, { values }]) => values(entry).includes(selected[name])) &&
      (!at || covers(entry, at)),
  );
}

/** The values of a facet that the other facets leave, each with its number of collections. */
export function choices(collections, state, name) {
  const counts = new Map();
  for (const entry of search(collections, state, name)) {
    for (const value of FACETS[name].values(entry)) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  return [...counts].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
}

/** Collections that overlap this one, those of its type first. */
export function overlapping(collections, entry) {
  const others = collections.filter((other) => other !== entry && intersect(other.extent, entry.extent));
  const rank = (other) => (other.type === entry.type ? 0 : 1);
  return others.sort((a, b) => rank(a) - rank(b) || (a.year ?? 9999) - (b.year ?? 9999));
}

function intersect(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

function covers(entry, at) {
  const [x, y] = at.split(",").map(Number);
  const [minx, miny, maxx, maxy] = entry.extent;
  return x >= minx && x <= maxx && y >= miny && y <= maxy;
}

/** The addresses for other programs: name, use, address. */
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

/** The downloads of the whole collection: name, description, address. Exports may not exist yet. */
export function files(entry) {
  const exports = entry.exports;
  const mosaics = Object.entries(exports?.mosaics ?? {});
  return [
    ["Tile index", "outlines and links, zipped shapefile", entry.index],
    ["GeoJSON", "outlines and links, for web maps and scripts", exports?.geojson],
    ["GeoParquet", "the same, for analysis", exports?.parquet],
    ["STAC collection", "every photograph with its files and checksums", exports?.stac],
    ...mosaics.map(([filmType, address]) => [mosaics.length > 1 ? `Mosaic for GDAL, ${entry.films[filmType] ?? filmType}` : "Mosaic for GDAL", "all photographs as one raster, without downloading them", address]),
  ].filter(([, , address]) => address);
}
