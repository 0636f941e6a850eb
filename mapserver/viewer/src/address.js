// The part of the address after #: what is shown, so that an address can be sent to somebody and Back works. Pure.
//
//   #                                            all collections
//   #/7.2/31.1/-98.0?county=Travis&q=1958        the same, a place on the map and a search
//   #travis_usda_1958_frames                     one collection; a map's bare address leads here
//   #travis_usda_1958_frames/14/30.2/-97.7?frame=bw/02-08-58_6-107&compare=travis_usda_1937_frames

export const NOTHING = Object.freeze({
  table: null,
  view: null, // {zoom, lat, lon}
  q: "",
  county: "",
  agency: "",
  year: "",
  type: "",
  at: "", // x,y in EPSG:3857 metres: only collections at this place
  frame: null, // <band>/<stem>
  of: "", // "right": the frame is one of the compared collection
  compare: null, // table of the collection on the right
  side: false, // beside each other, not under a divider
  split: 0.5,
  opacity: 1,
  footprints: true,
});

export const FILTERS = ["q", "county", "agency", "year", "type", "at"];

const number = (text, low, high) => {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) && value >= low && value <= high ? value : null;
};

/** Reads what stands after #; what makes no sense is left out. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?", 2);
  const [table, ...place] = path.split("/");
  const given = new URLSearchParams(query);
  const [zoom, lat, lon] = [number(place[0], 0, 24), number(place[1], -89, 89), number(place[2], -180, 180)];
  const state = { ...NOTHING, table: /^[a-z0-9_]+$/.test(table) ? table : null };
  if (zoom !== null && lat !== null && lon !== null) state.view = { zoom, lat, lon };
  if (!state.table) {
    for (const name of FILTERS) state[name] = given.get(name) ?? "";
    return state;
  }
  state.frame = given.get("frame");
  state.of = given.get("of") === "right" ? "right" : "";
  state.compare = given.get("compare");
  state.side = given.get("side") === "1";
  state.split = number(given.get("split"), 0, 1) ?? NOTHING.split;
  state.opacity = number(given.get("opacity"), 0, 1) ?? NOTHING.opacity;
  state.footprints = given.get("footprints") !== "0";
  return state;
}

/** The reverse of `parse`; what is as usual is not written. */
export function format(state) {
  const query = [];
  const add = (name, value) => query.push(`${name}=${encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("%2C", ",")}`);
  if (state.table) {
    if (state.frame) add("frame", state.frame);
    if (state.frame && state.of) add("of", state.of);
    if (state.compare) add("compare", state.compare);
    if (state.compare && state.side) add("side", 1);
    if (state.compare && !state.side && state.split !== NOTHING.split) add("split", state.split.toFixed(3));
    if (state.opacity !== 1) add("opacity", state.opacity.toFixed(2));
    if (!state.footprints) add("footprints", 0);
  } else {
    for (const name of FILTERS) if (state[name]) add(name, state[name]);
  }
  const { zoom, lat, lon } = state.view ?? {};
  const place = state.view ? `/${zoom.toFixed(2)}/${lat.toFixed(5)}/${lon.toFixed(5)}` : "";
  return `#${state.table ?? ""}${place}${query.length ? `?${query.join("&")}` : ""}`;
}
