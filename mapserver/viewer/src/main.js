// Connects the parts of the page. There is one state, kept in the address; a change of it redraws the page.

import { buffer, containsExtent } from "ol/extent.js";
import { showHealth } from "../../staff/health.js";
import { DEFAULTS, format, parse } from "./address.js";
import { DEFAULTS as ANY_ARCHIVE, credits, firstView, loadArchive } from "./archive.js";
import { archiveName, loadBase } from "./base.js";
import { browsePanel } from "./browse.js";
import { collectionPanel } from "./collection.js";
import { load, search } from "./collection_list.js";
import { announce, byId, counted, h, showNotice } from "./dom.js";
import { frameNamed, framesAt } from "./footprints.js";
import { framePanel } from "./frame.js";
import { Stage } from "./stage.js";

const DISPLAY = new Set(["opacity", "footprints"]);
const NO_REDRAW = new Set([...DISPLAY, "view", "frame", "frameSide"]); // parts of the state that change without a redraw of the page
const MAX_START_ZOOM = 9; // a small archive is first shown with the counties around it

let archive = ANY_ARCHIVE; // until the archive file is read
let collections = [];
let state = parse(location.hash);
const missingTiles = new Map(); // by name of a map: number of tiles and how to request them
let isViewSet = false; // from then on, movements of the map go into the address

const stage = new Stage(byId("maps"), { pick, move: moveMap, split: moveDivider, missing: reportMissingTiles, hover });
const list = browsePanel(byId("browse"), { choose, filter, hover });
const panel = collectionPanel(byId("chosen"), { back, change: go, choose, swap, fit: () => stage.left.fit(current().extent), showFrame }, () => stage.view.calculateExtent(stage.left.map.getSize()));
const photograph = framePanel(byId("frame-panel"), { close: closeFrame, step: stepToFrame });

const findCollection = (table) => collections.find((entry) => entry.table === table) ?? null;
const current = () => findCollection(state.table);

/** Apply a change of the state to the address and to the page. A quiet change adds no entry to the history. */
function go(patch, isQuiet = false) {
  const before = state;
  state = { ...state, ...patch };
  history[isQuiet ? "replaceState" : "pushState"](null, "", format(state));
  const changed = Object.keys(patch).filter((name) => state[name] !== before[name]);
  if (changed.some((name) => !NO_REDRAW.has(name))) draw();
  else if (changed.some((name) => DISPLAY.has(name))) stage.setDisplay(state);
}

function draw() {
  const selected = current();
  const compared = selected ? findCollection(state.compare) : null;
  document.title = selected ? `${selected.label} – ${archive.title}` : archive.title;
  byId("browse").hidden = Boolean(selected);
  byId("chosen").hidden = !selected;
  const listed = selected ? search(collections, state) : list.show(collections, state);
  if (selected) panel.show(selected, collections, state);
  stage.show(selected, compared, state, listed, countByCounty(listed));
  if (!state.frame) hidePhotograph();
}

function hidePhotograph() {
  photograph.close();
  stage.mark(null);
}

/** A function that returns the number of these collections in a county. */
function countByCounty(listed) {
  const counts = new Map();
  for (const { county } of listed) counts.set(county, (counts.get(county) ?? 0) + 1);
  return (county) => counts.get(archiveName(county)) ?? 0;
}

function choose(entry, keepView = false) {
  const view = keepView ? state.view : null;
  hideNotice();
  go({ ...DEFAULTS, table: entry.table, view, opacity: state.opacity, footprints: state.footprints });
  if (!view) stage.left.fit(entry.extent);
  announce(`${entry.label}, ${counted(entry.frames, "frame")}.`);
  byId("side-body").scrollTop = 0;
  byId("chosen-title").focus({ preventScroll: true });
}

function back() {
  const { table } = state;
  go({ ...DEFAULTS });
  showAll();
  list.focus(table);
}

/** The map follows the facets, but not each letter of a search. */
function filter(patch, isTyping = false) {
  go(patch, isTyping);
  if (!isTyping) showAll(search(collections, state));
}

function swap(compared) {
  go({ table: compared.table, compare: state.table, frame: null, frameSide: "" });
}

function hover(entry) {
  stage.left.highlight(entry);
}

function moveMap(view) {
  if (isViewSet) go({ view }, true);
  panel.refreshFrames();
}

function moveDivider(split) {
  clearTimeout(moveDivider.timer);
  moveDivider.timer = setTimeout(() => {
    state = { ...state, split };
    history.replaceState(null, "", format(state));
  }, 150);
}

/** Name the maps with missing tiles in one notice, and hide it when they are complete. `retryAll`: null while retries are pending. */
function reportMissingTiles(name, count, retryAll) {
  const hadMissing = missingTiles.size > 0;
  if (count) missingTiles.set(name, { count, retryAll });
  else missingTiles.delete(name);
  const maps = [...missingTiles].map(([map, { count }]) => `${counted(count, "tile")} of ${map}`);
  const retries = [...missingTiles.values()].map((missing) => missing.retryAll);
  if (!maps.length) return hadMissing && hideNotice();
  const isPending = retries.includes(null);
  const advice = isPending ? "The page requests them again." : "Check your connection, then try again.";
  showNotice(`The map server is not responding, so ${maps.join(" and ")} cannot be drawn. ${advice}`, isPending ? null : () => retries.forEach((retry) => retry()));
}

const hideNotice = () => showNotice(null);

/** A click on the map, or Enter. */
async function pick(entries, coordinate, slot, county) {
  const entry = slot === "right" ? findCollection(state.compare) : current();
  if (!entry) {
    if (entries.length === 1) choose(entries[0]);
    else if (entries.length) go({ at: coordinate.map(Math.round).join(",") });
    else if (county) filter({ county: archiveName(county) });
    return;
  }
  hideNotice();
  try {
    const frames = await framesAt(entry, coordinate);
    if (frames.length) showFrame(frames[0], frames, entry);
    else {
      closeFrame();
      showNotice("The collection has no photograph of this place: click on a photograph.");
    }
  } catch (error) {
    showNotice(error.message);
  }
}

function showFrame(frame, frames, entry = current()) {
  hideNotice();
  go({ frame: frame.id, frameSide: entry === current() ? "" : "right" });
  stage.mark(frame.geometry);
  photograph.open(entry, frames, frames.indexOf(frame));
  byId("frame-panel").focus({ preventScroll: true });
  stage.reveal(frame.geometry.getExtent(), byId("frame-panel"));
}

function stepToFrame(frame) {
  stage.mark(frame.geometry);
  stage.reveal(frame.geometry.getExtent(), byId("frame-panel"));
  go({ frame: frame.id }, true);
}

function closeFrame() {
  if (!photograph.isOpen()) return;
  hidePhotograph();
  go({ frame: null, frameSide: "" });
  stage.focus();
}

function showAll(listed = collections) {
  const extents = listed.map(({ extent }) => extent);
  if (!extents.length) return;
  const all = extents.reduce((a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  stage.left.fit(all, { maxZoom: MAX_START_ZOOM });
}

/** Set the state from the address: at the start, and on Back and Forward. */
async function follow() {
  isViewSet = false;
  state = parse(location.hash);
  const entry = current();
  if (state.table && !entry) {
    showNotice(`Collection ${state.table} is not on the map: it was withdrawn, or the address has a typo. Choose one from the list.`);
    state = { ...DEFAULTS };
  } else hideNotice();
  draw();
  if (state.view) stage.setView(state.view);
  else if (entry) stage.left.fit(entry.extent, { duration: 0 });
  else showAll();
  isViewSet = true;
  if (entry && state.frame) await restoreFrame((state.frameSide === "right" && findCollection(state.compare)) || entry, state);
}

async function restoreFrame(entry, { frame: id, view }) {
  try {
    const frame = await frameNamed(entry, id);
    if (state.frame !== id) return;
    if (!frame) return showNotice("The photograph in the address is no longer in this collection: choose another on the map.");
    stage.mark(frame.geometry);
    photograph.open(entry, [frame]);
    const visible = stage.view.calculateExtent(stage.left.map.getSize());
    if (!view || !containsExtent(buffer(visible, 1), frame.geometry.getExtent())) stage.left.fit(frame.geometry.getExtent(), { duration: 0 });
  } catch (error) {
    showNotice(error.message);
  }
}

/** Show what the archive file says about the page, once. */
async function describeArchive() {
  archive = await loadArchive();
  byId("home").textContent = archive.title;
  const links = credits(archive).flatMap(([text, address]) => [address ? h("a", { href: address }, text) : text, " "]);
  byId("credits").replaceChildren(...links);
  stage.showFirst(firstView(archive));
  loadBase(archive.base_map).then(() => stage.recolor(), () => {});
}

async function start() {
  if (archive === ANY_ARCHIVE) await describeArchive();
  try {
    collections = await load();
  } catch (error) {
    showNotice(error.message, start);
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
showHealth(byId("health"));
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  back();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  stage.focus();
});
byId("handle").addEventListener("click", () => {
  const isLow = document.body.classList.toggle("low");
  byId("handle").setAttribute("aria-expanded", String(!isLow));
  byId("handle").firstChild.textContent = isLow ? "Show the list" : "Show more of the map";
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => stage.recolor());

document.fonts.ready.then(() => stage.recolor());
await start();
