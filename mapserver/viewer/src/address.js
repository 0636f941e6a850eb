// The page's state as the part of the address after #, so that links and the Back button work. Pure; `main.js` holds the state.
//
//   #                                            all collections
//   #/7.2/31.1/-98.0?county=Adams&q=1958        the same, with a view of the map and a search
//   #adams_usda_1958_frames                     one collection; a map's bare address redirects here
//   #adams_usda_1958_frames/14/30.2/-97.7?frame=bw/02-08-58_6-107&compare=adams_usda_1937_frames

export const DEFAULTS = Object.freeze({
  table: null,
  view: null, // {zoom, lat, lon}
  q: "",
  county: "",
  agency: "",
  year: "",
  type: "",
  film: "",
  at: "", // x,y in EPSG:3857 meters: only collections at this place
  frame: null, // <film type>/<stem>
  frameSide: "", // "right": the frame belongs to the compared collection; the parameter `of` in the address
  compare: null, // table of the collection on the right
  side: false, // side by side instead of a divider
  split: 0.5,
  opacity: 1,
  footprints: true,
});

export const FILTERS = ["q", "county", "agency", "year", "type", "film", "at"];

const number = (text, low, high) => {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) && value >= low && value <= high ? value : null;
};

/** The state of an address. Invalid parts are ignored. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?", 2);
  const [table, ...view] = path.split("/");
  const parameters = new URLSearchParams(query);
  const [zoom, lat, lon] = [number(view[0], 0, 24), number(view[1], -89, 89), number(view[2], -180, 180)];
  const state = { ...DEFAULTS, table: /^[a-z0-9_]+$/.test(table) ? table : null };
  if (zoom !== null && lat !== null && lon !== null) state.view = { zoom, lat, lon };
  if (!state.table) {
    for (const name of FILTERS) state[name] = parameters.get(name) ?? "";
    return state;
  }
  state.frame = parameters.get("frame");
  state.frameSide = parameters.get("of") === "right" ? "right" : "";
  state.compare = parameters.get("compare");
  state.side = parameters.get("side") === "1";
  state.split = number(parameters.get("split"), 0, 1) ?? DEFAULTS.split;
  state.opacity = number(parameters.get("opacity"), 0, 1) ?? DEFAULTS.opacity;
  state.footprints = parameters.get("footprints") !== "0";
  return state;
}

/** The address of a state, the reverse of `parse`. Default values are omitted. */
export function format(state) {
  const query = [];
  const add = (name, value) => query.push(`${name}=${encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("%2C", ",")}`);
  if (state.table) {
    if (state.frame) add("frame", state.frame);
    if (state.frame && state.frameSide) add("of", state.frameSide);
    if (state.compare) add("compare", state.compare);
    if (state.compare && state.side) add("side", 1);
    if (state.compare && !state.side && state.split !== DEFAULTS.split) add("split", state.split.toFixed(3));
    if (state.opacity !== 1) add("opacity", state.opacity.toFixed(2));
    if (!state.footprints) add("footprints", 0);
  } else {
    for (const name of FILTERS) if (state[name]) add(name, state[name]);
  }
  const { zoom, lat, lon } = state.view ?? {};
  const view = state.view ? `/${zoom.toFixed(2)}/${lat.toFixed(5)}/${lon.toFixed(5)}` : "";
  return `#${state.table ?? ""}${view}${query.length ? `?${query.join("&")}` : ""}`;
}
