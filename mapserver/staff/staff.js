// The list of rejected files: read from the JSON that the platform writes, searched and cut here. The search stands in the
// address after #, so that a message can lead to its files.

const ROWS = 100;
const AGAIN = 60_000;

const $ = (id) => document.getElementById(id);
const [find, state, kind, more] = ["find", "state", "kind", "more"].map($);
const table = document.querySelector("table");
let list = { rejections: [], open: 0, resolved: 0 };
let shown = ROWS;

/** An element with text or children, which are never read as HTML. */
function element(name, content = [], attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

const moment = (iso) => element("time", new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }), { datetime: iso });

function row(one) {
  const isOpen = one.state === "open";
  const seen = [moment(one.last)];
  if (one.first !== one.last) seen.push(element("small", ["first ", moment(one.first)]));
  if (one.times > 1) seen.push(element("small", `${one.times} times`));
  const standing = [element("span", isOpen ? "Open" : "Resolved", isOpen ? { class: "open" } : {})];
  if (!isOpen) standing.push(element("small", [`${one.state}, `, moment(one.resolved)]));
  const file = [element("strong", one.file), element("small", one.folder)];
  return element("tr", [file, one.reason, isOpen ? one.advice : "Nothing is left to do.", seen, standing].map((cell) => element("td", cell)));
}

/** Every word has to occur somewhere; an underscore is a letter, so that a collection's name is one word. */
function matches(one, words) {
  const text = `${one.file} ${one.folder} ${one.place} ${one.reason} ${one.advice}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

function chosen() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = (one) => state.value === "all" || (state.value === "open") === (one.state === "open");
  const newest = (one) => one.resolved ?? one.last;
  return list.rejections
    .filter((one) => wanted(one) && (!kind.value || one.kind === kind.value) && matches(one, words))
    .sort((a, b) => (newest(a) < newest(b) ? 1 : newest(a) > newest(b) ? -1 : 0));
}

function show() {
  const found = chosen();
  table.tBodies[0].replaceChildren(...found.slice(0, shown).map(row));
  table.hidden = !found.length;
  more.hidden = found.length <= shown;
  const held = list.open + list.resolved;
  const cut = held > list.rejections.length ? ` The list holds the newest ${list.rejections.length} of ${held}.` : "";
  const count = found.length === 1 ? "1 file" : `${found.length} files`;
  $("found").textContent = `${found.length ? count : "No file"}. In all ${list.open} open, ${list.resolved} resolved.${cut}`;
}

async function read() {
  try {
    const answer = await fetch("/staff/rejections.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    list = await answer.json();
    $("fault").hidden = true;
  } catch (error) {
    $("fault").textContent = `The list cannot be read (${error.message}): what is shown may be old. It is tried again every minute.`;
    $("fault").hidden = false;
  }
  show();
}

function choose() {
  shown = ROWS;
  const address = new URLSearchParams({ ...(find.value && { find: find.value }), ...(state.value !== "open" && { state: state.value }), ...(kind.value && { kind: kind.value }) });
  history.replaceState(null, "", `#${address}`);
  show();
}

function followAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  find.value = given.get("find") ?? "";
  state.value = ["resolved", "all"].includes(given.get("state")) ? given.get("state") : "open";
  kind.value = ["rejected", "failed"].includes(given.get("kind")) ? given.get("kind") : "";
  show();
}

$("choose").addEventListener("input", choose);
$("choose").addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => {
  const first = shown;
  shown += ROWS;
  show();
  const row = table.tBodies[0].rows[first];
  row.tabIndex = -1;
  row.focus();
});
addEventListener("hashchange", followAddress);
followAddress();
await read();
setInterval(read, AGAIN);
