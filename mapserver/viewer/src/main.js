// Puts the parts together. One state, kept in the address; every change of it draws the page again.

import { buffer, containsExtent } from "ol/extent.js";
import { NOTHING, format, parse } from "./address.js";
import { archiveName, loadBase } from "./base.js";
import { browser } from "./browse.js";
import { load, search } from "./catalogue.js";
import { collectionPanel } from "./collection.js";
import { announce, byId, counted, notice } from "./dom.js";
import { frameNamed, framesAt } from "./footprints.js";
import { framePanel } from "./frame.js";
import { Stage } from "./stage.js";

const LOOKS = new Set(["opacity", "footprints"]);
const LIGHT = new Set([...LOOKS, "view", "frame", "of"]); // what changes without the page being drawn again
const WIDEST = 9; // zoom: a small archive is first shown with the counties around it

let collections = [];
let state = parse(location.hash);
let settled = false; // the first view is set: from now on the map's movements go into the address

const stage = new Stage(byId("maps"), { picked, looked, moved, failed, hovered });
const list = browser(byId("browse"), { chosen: choose, filtered, hovered });
const panel = collectionPanel(byId("chosen"), { back, changed, chosen: choose, swap, fit: () => stage.left.fit(current().extent), frame: showFrame }, () => stage.view.calculateExtent(stage.left.map.getSize()));
const photograph = framePanel(byId("frame-panel"), { closed: closeFrame, shown: stepped });

const named = (table) => collections.find((entry) => entry.table === table) ?? null;
const current = () => named(state.table);

/** Takes a new state into the address and onto the page. `quiet` changes take no place in the history. */
function go(patch, quiet = false) {
  const before = state;
  state = { ...state, ...patch };
  history[quiet ? "replaceState" : "pushState"](null, "", format(state));
  const differ = Object.keys(patch).filter((name) => state[name] !== before[name]);
  if (differ.some((name) => !LIGHT.has(name))) draw();
  else if (differ.some((name) => LOOKS.has(name))) stage.look(state);
}

function draw() {
  const chosen = current();
  const compared = chosen ? named(state.compare) : null;
  document.title = chosen ? `${chosen.label} – Aerial photographs` : "Aerial photographs";
  byId("browse").hidden = Boolean(chosen);
  byId("chosen").hidden = !chosen;
  const listed = chosen ? search(collections, state) : list.show(collections, state);
  if (chosen) panel.show(chosen, collections, state);
  stage.show(chosen, compared, state, listed, counter(listed));
  if (!state.frame) hidePhotograph();
}

function hidePhotograph() {
  photograph.close();
  stage.mark(null);
}

/** How many of these collections show a county. */
function counter(listed) {
  const counts = new Map();
  for (const { county } of listed) counts.set(county, (counts.get(county) ?? 0) + 1);
  return (county) => counts.get(archiveName(county)) ?? 0;
}

function choose(entry, keepView = false) {
  const view = keepView ? state.view : null;
  closeNotice();
  go({ ...NOTHING, table: entry.table, view, opacity: state.opacity, footprints: state.footprints });
  if (!view) stage.left.fit(entry.extent);
  announce(`${entry.label}, ${counted(entry.frames, "frame")}.`);
  byId("side-body").scrollTop = 0;
  byId("chosen-title").focus({ preventScroll: true });
}

function back() {
  const { table } = state;
  go({ ...NOTHING });
  showAll();
  list.focus(table);
}

/** The map follows a facet, but not each letter that is typed. */
function filtered(patch, typed = false) {
  go(patch, typed);
  if (!typed) showAll(search(collections, state));
}

function changed(patch, quiet = false) {
  go(patch, quiet);
}

function swap(compared) {
  go({ table: compared.table, compare: state.table, frame: null, of: "" });
}

function hovered(entry) {
  stage.left.light(entry);
}

function looked(view) {
  if (settled) go({ view }, true);
  panel.looked();
}

function moved(split) {
  clearTimeout(moved.timer);
  moved.timer = setTimeout(() => {
    state = { ...state, split };
    history.replaceState(null, "", format(state));
  }, 150);
}

function failed(entry) {
  notice(`The imagery of ${entry.label} cannot be drawn at the moment: the map server does not answer.`, () => location.reload());
}

const closeNotice = () => notice(null);

/** A click, or Enter, on the map. */
async function picked(entries, coordinate, slot, county) {
  const entry = slot === "right" ? named(state.compare) : current();
  if (!entry) {
    if (entries.length === 1) choose(entries[0]);
    else if (entries.length) go({ at: coordinate.map(Math.round).join(",") });
    else if (county) filtered({ county: archiveName(county) });
    return;
  }
  try {
    const frames = await framesAt(entry, coordinate);
    if (frames.length) showFrame(frames[0], frames, entry);
    else {
      closeFrame();
      announce("There is no photograph of this place in the collection.");
    }
  } catch (error) {
    notice(error.message);
  }
}

function showFrame(frame, frames, entry = current()) {
  closeNotice();
  go({ frame: frame.id, of: entry === current() ? "" : "right" });
  stage.mark(frame.geometry);
  photograph.open(entry, frames, frames.indexOf(frame));
  byId("frame-panel").focus({ preventScroll: true });
  stage.reveal(frame.geometry.getExtent(), byId("frame-panel"));
}

function stepped(frame) {
  stage.mark(frame.geometry);
  stage.reveal(frame.geometry.getExtent(), byId("frame-panel"));
  go({ frame: frame.id }, true);
}

function closeFrame() {
  if (!photograph.isOpen()) return;
  hidePhotograph();
  go({ frame: null, of: "" });
  stage.focus();
}

function showAll(listed = collections) {
  const extents = listed.map(({ extent }) => extent);
  if (!extents.length) return;
  const all = extents.reduce((a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  stage.left.fit(all, { maxZoom: WIDEST });
}

/** Brings the page to what the address says: at the start, and on Back and Forward. */
async function follow() {
  settled = false;
  state = parse(location.hash);
  const entry = current();
  if (state.table && !entry) {
    notice(`There is no collection ${state.table} on the map: it was withdrawn, or the address is mistyped.`);
    state = { ...NOTHING };
  } else closeNotice();
  draw();
  if (state.view) stage.lookAt(state.view);
  else if (entry) stage.left.fit(entry.extent, { duration: 0 });
  else showAll();
  settled = true;
  if (entry && state.frame) await restoreFrame((state.of === "right" && named(state.compare)) || entry, state);
}

async function restoreFrame(entry, { frame: id, view }) {
  try {
    const frame = await frameNamed(entry, id);
    if (state.frame !== id) return;
    if (!frame) return notice("The photograph that the address names is not in this collection any more.");
    stage.mark(frame.geometry);
    photograph.open(entry, [frame]);
    const seen = stage.view.calculateExtent(stage.left.map.getSize());
    if (!view || !containsExtent(buffer(seen, 1), frame.geometry.getExtent())) stage.left.fit(frame.geometry.getExtent(), { duration: 0 });
  } catch (error) {
    notice(error.message);
  }
}

async function start() {
  try {
    collections = await load();
  } catch (error) {
    notice(error.message, start);
    return;
  }
  const frames = collections.reduce((sum, entry) => sum + (entry.type === "frames" ? entry.frames : 0), 0);
  byId("holdings").textContent = collections.length ? `${counted(collections.length, "collection")}, ${counted(frames, "photograph")}` : "";
  await follow();
}

addEventListener("popstate", follow);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && photograph.isOpen()) closeFrame();
});
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  back();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  stage.focus();
});
byId("handle").addEventListener("click", () => {
  const low = document.body.classList.toggle("low");
  byId("handle").setAttribute("aria-expanded", String(!low));
  byId("handle").firstChild.textContent = low ? "Show the list" : "Show more of the map";
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => stage.recolour());

loadBase().then(() => stage.recolour(), () => {});
document.fonts.ready.then(() => stage.recolour());
await start();
