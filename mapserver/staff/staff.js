// The list of rejected files, from the JSON that the pipeline writes. The search is in the address after #, so that notifications can
// link to their files.

import { showHealth } from "/staff/health.js";

const PAGE_SIZE = 100;
const REFRESH_MS = 60_000;
const OUTCOMES = { taken: "accepted" };

const $ = (id) => document.getElementById(id);
const [find, state, kind, more] = ["find", "state", "kind", "more"].map($);
const table = document.querySelector("table");
let list = { rejections: [], open: 0, resolved: 0 };
let rowLimit = PAGE_SIZE;

/** An element with text or children, which are never parsed as HTML. */
function element(name, content = [], attributes = {}) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...[content].flat());
  return created;
}

const time = (iso) => element("time", new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }), { datetime: iso });

function row(entry) {
  const isOpen = entry.state === "open";
  const seen = [time(entry.last)];
  if (entry.first !== entry.last) seen.push(element("small", ["first ", time(entry.first)]));
  if (entry.times > 1) seen.push(element("small", `${entry.times} times`));
  const status = [element("span", isOpen ? "Open" : "Resolved", isOpen ? { class: "open" } : {})];
  if (!isOpen) status.push(element("small", [`${OUTCOMES[entry.state] ?? entry.state}, `, time(entry.resolved)]));
  const file = [element("strong", entry.file), element("small", entry.folder)];
  return element("tr", [file, entry.reason, isOpen ? entry.advice : "No action is needed.", seen, status].map((cell) => element("td", cell)));
}

/** Whether each word occurs somewhere. An underscore counts as a letter, so a collection's name is one word. */
function matches(entry, words) {
  const text = `${entry.file} ${entry.folder} ${entry.place} ${entry.reason} ${entry.advice}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The entries that match the form, newest first. */
function matching() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hasState = (entry) => state.value === "all" || (state.value === "open") === (entry.state === "open");
  const newest = (entry) => entry.resolved ?? entry.last;
  return list.rejections
    .filter((entry) => hasState(entry) && (!kind.value || entry.kind === kind.value) && matches(entry, words))
    .sort((a, b) => (newest(a) < newest(b) ? 1 : newest(a) > newest(b) ? -1 : 0));
}

function show() {
  const entries = matching();
  table.tBodies[0].replaceChildren(...entries.slice(0, rowLimit).map(row));
  table.hidden = !entries.length;
  more.hidden = entries.length <= rowLimit;
  const total = list.open + list.resolved;
  const truncated = total > list.rejections.length ? ` The list has the newest ${list.rejections.length} of ${total}.` : "";
  const count = entries.length === 1 ? "1 file" : `${entries.length} files`;
  $("summary").textContent = `${entries.length ? count : "No files"}. Total: ${list.open} open, ${list.resolved} resolved.${truncated}`;
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
  const address = new URLSearchParams({ ...(find.value && { find: find.value }), ...(state.value !== "open" && { state: state.value }), ...(kind.value && { kind: kind.value }) });
  history.replaceState(null, "", `#${address}`);
  show();
}

function followAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  find.value = parameters.get("find") ?? "";
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
