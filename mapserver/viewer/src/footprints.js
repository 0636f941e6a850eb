// Asks the map server about frames: which lie at a place, which has this name. Answers are plain records, the top one first.

import GeoJSON from "ol/format/GeoJSON.js";
import { transformExtent } from "ol/proj.js";

const MOST = 60; // frames that one place or view lists; a flight overlaps by less than ten

const format = new GeoJSON();

/** Frames whose photograph shows this place (EPSG:3857). */
export async function framesAt(entry, coordinate) {
  const { frames } = await itemsWithin(entry, [...coordinate, ...coordinate], "EPSG:3857");
  return frames.filter((frame) => frame.geometry.intersectsCoordinate(coordinate)).reverse();
}

/** Frames in a view, in the order of their names, and how many there are in all. */
export async function framesWithin(entry, extent) {
  const { frames, all } = await itemsWithin(entry, extent);
  return { frames: frames.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true })), all };
}

/** One frame by its identity, <band>/<stem>; null when there is none. */
export async function frameNamed(entry, id) {
  const [band, stem] = id.split("/", 2);
  if (!/^\w+$/.test(band) || !/^[\w-]+$/.test(stem ?? "")) return null;
  const like = `<PropertyIsLike wildCard="*" singleChar="." escapeChar="!"><PropertyName>dl_georef</PropertyName><Literal>*/${band}/*/cog/${stem}.tif</Literal></PropertyIsLike>`;
  const answer = await asked(`/wms/${entry.table}`, {
    SERVICE: "WFS",
    VERSION: "2.0.0",
    REQUEST: "GetFeature",
    TYPENAMES: `${entry.name}_index`,
    OUTPUTFORMAT: "geojson",
    FILTER: `<Filter>${like}</Filter>`,
  });
  const features = format.readFeatures(answer, { dataProjection: "EPSG:3857" });
  return features.map(record).find((frame) => frame.id === id) ?? null;
}

async function itemsWithin(entry, extent) {
  const bbox = transformExtent(extent, "EPSG:3857", "EPSG:4326").map((value) => value.toFixed(7));
  const address = `/ogcapi/${entry.table}/collections/${entry.name}_index/items`;
  const answer = await asked(address, { f: "json", limit: MOST, bbox: bbox.join(",") });
  const features = format.readFeatures(answer, { dataProjection: "EPSG:4326", featureProjection: "EPSG:3857" });
  return { frames: features.map(record), all: answer.numberMatched };
}

/** Raises an Error whose message is for people. */
async function asked(address, parameters) {
  try {
    const answer = await fetch(`${address}?${new URLSearchParams(parameters)}`);
    if (answer.ok) return await answer.json();
  } catch {
    // Neither an answer nor JSON: MapServer tells of its troubles in XML.
  }
  throw new Error("The map server did not answer: try again in a few seconds.");
}

/** What the page shows of a frame. The COG's link gives its identity: the archive's names are the contract. */
function record(feature) {
  const { date, roll, frame_num, acquired, band, dl_orig, dl_georef, dl_index } = feature.getProperties();
  const [, base, file] = /^(.*)\/(?:bw|nc)\/[^/]+\/[^/]+\/[^/]+\/cog\/([^/]+)\.tif$/.exec(dl_georef) ?? ["", "", frame_num];
  return {
    id: `${band}/${file}`,
    file,
    band,
    roll,
    number: frame_num,
    date: spokenDate(acquired) ?? (/^(?:multiple|n\/a)$/i.test(date ?? "") ? "several dates" : date),
    archive: base,
    scan: /^https?:/.test(dl_orig ?? "") ? dl_orig : null,
    cog: dl_georef,
    index: dl_index,
    geometry: feature.getGeometry(),
  };
}

/** 1958-02-08 as 8 February 1958. */
function spokenDate(acquired) {
  const [year, month, day] = (acquired ?? "").split("-").map(Number);
  if (!year || !month || !day) return null;
  return new Date(Date.UTC(year, month - 1, day)).toLocaleDateString("en-GB", {
    day: "numeric",
    month: "long",
    year: "numeric",
    timeZone: "UTC",
  });
}

/** Where a frame's preview may lie: where the archive's links lead, or under this page's own server. */
export function previews(entry, frame) {
  const path = `derived/${entry.name}/thumbnails/${frame.id}.webp`;
  const here = `${location.origin}/archive/${path}`;
  const there = `${frame.archive}/${path}`;
  return there.startsWith("https:") || there.startsWith(location.origin) ? [...new Set([there, here])] : [here];
}

/** Is a file there, and how large is it? `null`: it cannot be known, because it lies on another server. */
export async function fileInfo(address) {
  if (!address.startsWith(location.origin)) return null;
  try {
    const answer = await fetch(address, { method: "HEAD" });
    return { exists: answer.ok, gone: answer.status === 404, bytes: Number(answer.headers.get("Content-Length")) };
  } catch {
    return null;
  }
}
