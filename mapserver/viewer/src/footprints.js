// Queries to the map server about frames: those at a place, those in a view, one by its id. The results are plain records.

import GeoJSON from "ol/format/GeoJSON.js";
import { transformExtent } from "ol/proj.js";

const MAX_FRAMES = 60; // limit of one query; in a flight fewer than ten frames overlap at one place

const format = new GeoJSON();

/** The frames whose photograph covers this place (EPSG:3857), the top one first. */
export async function framesAt(entry, coordinate) {
  const { frames } = await itemsWithin(entry, [...coordinate, ...coordinate], "EPSG:3857");
  return frames.filter((frame) => frame.geometry.intersectsCoordinate(coordinate)).reverse();
}

/** The frames in a view, sorted by id, and their total number. */
export async function framesWithin(entry, extent) {
  const { frames, total } = await itemsWithin(entry, extent);
  return { frames: frames.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true })), total };
}

/** The frame with this id, <film type>/<stem>; null when it does not exist. */
export async function frameNamed(entry, id) {
  const [filmType, stem] = id.split("/", 2);
  if (!/^\w+$/.test(filmType) || !/^[\w-]+$/.test(stem ?? "")) return null;
  const like = `<PropertyIsLike wildCard="*" singleChar="." escapeChar="!"><PropertyName>dl_georef</PropertyName><Literal>*/${filmType}/*/cog/${stem}.tif</Literal></PropertyIsLike>`;
  const collection = await fetchJson(`/wms/${entry.table}`, {
    SERVICE: "WFS",
    VERSION: "2.0.0",
    REQUEST: "GetFeature",
    TYPENAMES: `${entry.name}_index`,
    OUTPUTFORMAT: "geojson",
    FILTER: `<Filter>${like}</Filter>`,
  });
  const features = format.readFeatures(collection, { dataProjection: "EPSG:3857" });
  return features.map(toFrame).find((frame) => frame.id === id) ?? null;
}

async function itemsWithin(entry, extent) {
  const bbox = transformExtent(extent, "EPSG:3857", "EPSG:4326").map((value) => value.toFixed(7));
  const address = `/ogcapi/${entry.table}/collections/${entry.name}_index/items`;
  const collection = await fetchJson(address, { f: "json", limit: MAX_FRAMES, bbox: bbox.join(",") });
  const features = format.readFeatures(collection, { dataProjection: "EPSG:4326", featureProjection: "EPSG:3857" });
  return { frames: features.map(toFrame), total: collection.numberMatched };
}

/** The JSON of a response. Throws an Error whose message is shown to the user. */
async function fetchJson(address, parameters) {
  try {
    const response = await fetch(`${address}?${new URLSearchParams(parameters)}`);
    if (response.ok) return await response.json();
  } catch {
    // No response, or MapServer's error report in XML.
  }
  throw new Error("The map server is not responding: try again in a few seconds.");
}

/** What the page shows of a frame. Its id comes from the COG's link, because the archive's file names are the contract. */
function toFrame(feature) {
  const { date, roll, frame_num, acquired, band, dl_orig, dl_georef, dl_index } = feature.getProperties();
  const [, base, file] = /^(.*)\/[^/]+\/[^/]+\/[^/]+\/[^/]+\/cog\/([^/]+)\.tif$/.exec(dl_georef) ?? ["", "", frame_num];
  return {
    id: `${band}/${file}`,
    file,
    filmType: band,
    roll,
    number: frame_num,
    date: longDate(acquired) ?? (/^(?:multiple|n\/a)$/i.test(date ?? "") ? "several dates" : date),
    archive: base,
    scan: /^https?:/.test(dl_orig ?? "") ? dl_orig : null,
    cog: dl_georef,
    index: dl_index,
    geometry: feature.getGeometry(),
  };
}

/** 1958-02-08 as February 8, 1958; null for an incomplete date. */
function longDate(acquired) {
  const [year, month, day] = (acquired ?? "").split("-").map(Number);
  if (!year || !month || !day) return null;
  return new Date(Date.UTC(year, month - 1, day)).toLocaleDateString("en-US", {
    day: "numeric",
    month: "long",
    year: "numeric",
    timeZone: "UTC",
  });
}

/** The addresses that may have a frame's preview: in the archive that the links name, and on this server. */
export function previews(entry, frame) {
  const path = `derived/${entry.name}/thumbnails/${frame.id}.webp`;
  const local = `${location.origin}/archive/${path}`;
  const linked = `${frame.archive}/${path}`;
  return linked.startsWith("https:") || linked.startsWith(location.origin) ? [...new Set([linked, local])] : [local];
}

/** Whether a file exists, and its size in bytes; null for a file on another server, where this cannot be checked. */
export async function fileInfo(address) {
  if (!address.startsWith(location.origin)) return null;
  try {
    const response = await fetch(address, { method: "HEAD" });
    return { exists: response.ok, isMissing: response.status === 404, bytes: Number(response.headers.get("Content-Length")) };
  } catch {
    return null;
  }
}
