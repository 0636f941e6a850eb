// The list of rejected files, from the JSON that the pipeline writes. The search and the folder are in the address after #, to bookmark;
// #file=KEY shows a single file whatever has become of it, for the links of notifications.

import { showHealth } from "/staff/health.js";

const PAGE_SIZE = 100;
const REFRESH_MS = 60_000;
const OUTCOMES = { taken: "accepted" };

const $ = (id) => document.getElementById(id);
const [find, folder, state, kind, more] = ["find", "folder", "state", "kind", "more"].map($);
const table = document.querySelector("table");
let list = { rejections: [], open: 0, resolved: 0 };
let rowLimit = PAGE_SIZE;
// The only file to show, by its key; empty for the list.
let only = "";

/** An element with text or children, which are never parsed as HTML. */
function element(name, content = [], attributes = {}) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...[content].flat());
  return created;
}

const time = (iso) => element("time", new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }), { datetime: iso });

const keyOf = (entry) => `${entry.folder}/${entry.file}`;

/** The picture of the version that is on the map; a file of which no version was processed has none. */
function thumbnail(entry) {
  const isAllowed = entry.thumbnail.startsWith("https:") || entry.thumbnail.startsWith(location.origin);
  const address = isAllowed ? entry.thumbnail : `${location.origin}/archive/${entry.thumbnail.slice(entry.thumbnail.indexOf("derived/"))}`;
  const picture = element("img", [], { src: address, alt: `${entry.file} on the map`, width: 96, height: 96, loading: "lazy" });
  picture.addEventListener("error", () => picture.remove());
  return picture;
}

function row(entry) {
  const isOpen = entry.state === "open";
  const seen = [time(entry.last)];
  if (entry.first !== entry.last) seen.push(element("small", ["first ", time(entry.first)]));
  if (entry.times > 1) seen.push(element("small", `${entry.times} times`));
  const status = [element("span", isOpen ? "Open" : "Resolved", isOpen ? { class: "open" } : {})];
  if (!isOpen) status.push(element("small", [`${OUTCOMES[entry.state] ?? entry.state}, `, time(entry.resolved)]));
  const link = element("a", element("strong", entry.file), { class: "target", href: `#${new URLSearchParams({ file: keyOf(entry) })}` });
  const file = [link, element("small", entry.folder), ...(entry.thumbnail ? [thumbnail(entry)] : [])];
  return element("tr", [file, entry.reason, isOpen ? entry.advice : "No action is needed.", seen, status].map((cell) => element("td", cell)));
}

/** Whether each word occurs somewhere. An underscore counts as a letter, so a collection's name is one word. */
function matches(entry, words) {
  const text = `${entry.file} ${entry.folder} ${entry.place} ${entry.reason} ${entry.advice}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** What may be called mine: each place below a film type, such as bw/Adams, and each collection in it, without its georef/. */
function folders() {
  const found = new Set();
  for (const entry of list.rejections) {
    const path = entry.folder.split("/");
    found.add(path.slice(0, 2).join("/")).add(path.slice(0, 4).join("/"));
  }
  return found;
}

const isBelow = (entry, top) => `${entry.folder}/`.startsWith(`${top}/`);

/** The choice of folders follows the list. One that has no files stays while it is chosen: a bookmark must keep its meaning. */
function showFolders(chosen = folder.value) {
  const choices = [...(chosen ? folders().add(chosen) : folders())].sort();
  const shown = [...folder.options].slice(1).map(({ value }) => value);
  // An open menu of a phone closes when its options are replaced.
  if (choices.join() !== shown.join()) folder.replaceChildren(folder.options[0], ...choices.map((path) => element("option", path, { value: path })));
  folder.value = chosen;
}

/** The file of the address, or the entries that match the form, newest first. */
function matching() {
  if (only) return list.rejections.filter((entry) => keyOf(entry) === only);
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hasState = (entry) => state.value === "all" || (state.value === "open") === (entry.state === "open");
  const newest = (entry) => entry.resolved ?? entry.last;
  return list.rejections
    .filter((entry) => hasState(entry) && (!folder.value || isBelow(entry, folder.value)))
    .filter((entry) => (!kind.value || entry.kind === kind.value) && matches(entry, words))
    .sort((a, b) => (newest(a) < newest(b) ? 1 : newest(a) > newest(b) ? -1 : 0));
}

function show() {
  showFolders();
  const entries = matching();
  table.tBodies[0].replaceChildren(...entries.slice(0, rowLimit).map(row));
  table.hidden = !entries.length;
  more.hidden = entries.length <= rowLimit;
  const total = list.open + list.resolved;
  const truncated = total > list.rejections.length ? ` The list has the newest ${list.rejections.length} of ${total}.` : "";
  const count = entries.length === 1 ? "1 file" : `${entries.length} files`;
  const shown = only && !entries.length ? `${only} is not in the list: it was never rejected, or long ago` : entries.length ? count : "No files";
  $("summary").textContent = `${shown}. Total: ${list.open} open, ${list.resolved} resolved.${truncated}`;
  $("choose").hidden = Boolean(only);
  $("all").hidden = !only;
  // Bookmarks and tabs are named after it.
  const subject = only.split("/").pop() || folder.value;
  document.title = subject ? `Rejected files: ${subject}` : "Rejected files";
}

async function refresh() {
  try {
    const response = await fetch("/staff/rejections.json", { cache: "no-cache" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    list = await response.json();
    $("error").hidden = true;
  } catch (error) {
    $("error").textContent = `The list cannot be read (${error.message}), so this page may be out of date. It retries every minute.`;
    $("error").hidden = false;
  }
  show();
}

/** Apply the form to the address and to the table. */
function applyForm() {
  rowLimit = PAGE_SIZE;
  const address = new URLSearchParams({ ...(find.value && { find: find.value }), ...(folder.value && { folder: folder.value }), ...(state.value !== "open" && { state: state.value }), ...(kind.value && { kind: kind.value }) });
  history.replaceState(null, "", `#${address}`);
  show();
}

function followAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  only = parameters.get("file") ?? "";
  find.value = parameters.get("find") ?? "";
  showFolders((parameters.get("folder") ?? "").replace(/\/+$/, ""));
  state.value = ["resolved", "all"].includes(parameters.get("state")) ? parameters.get("state") : "open";
  kind.value = ["rejected", "failed"].includes(parameters.get("kind")) ? parameters.get("kind") : "";
  show();
}

$("choose").addEventListener("input", applyForm);
$("choose").addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => {
  const first = rowLimit;
  rowLimit += PAGE_SIZE;
  show();
  const firstNew = table.tBodies[0].rows[first];
  firstNew.tabIndex = -1;
  firstNew.focus();
});
addEventListener("hashchange", followAddress);
showHealth($("health"));
followAddress();
await refresh();
setInterval(refresh, REFRESH_MS);
