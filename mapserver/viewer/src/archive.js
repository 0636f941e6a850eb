// What the archive file says about the page, from /archive.json. Pure except for `loadArchive`.

import { transformExtent } from "ol/proj.js";

export const DEFAULTS = { title: "Aerial photographs", view: [-180, -85, 180, 85] };

/** The title, texts and addresses; defaults when they cannot be read, because the maps work without them. */
export async function loadArchive() {
  try {
    const response = await fetch("/archive.json", { cache: "no-cache" });
    return { ...DEFAULTS, ...(response.ok ? await response.json() : {}) };
  } catch {
    return DEFAULTS;
  }
}

/** The extent of the first view, in EPSG:3857. */
export const firstView = ({ view }) => transformExtent(view, "EPSG:4326", "EPSG:3857");

/** The sentences of the footer, each with an address or null: who published the photographs, their license, the base map. */
export function credits(archive) {
  const { organization, attribution, license, license_url: address, base_map_credit: baseMap } = archive;
  const sentences = [
    [attribution ?? (organization && `Published by ${organization}`), null],
    [license ?? (address && "License"), address],
    [baseMap, null],
  ];
  return sentences.filter(([text]) => text).map(([text, link]) => [/[.!?]$/.test(text) ? text : `${text}.`, link]);
}
