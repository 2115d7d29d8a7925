// The page: which view is shown, searching, a picture's details, keys, and pictures that are dropped or pasted.
import { $, api, card, clear, el, empty, encoded, fail, later, nameOf, picture } from "./parts.js";
import { showLabels, subject } from "./labels.js";
import { showMap } from "./map.js";
import { showDuplicates } from "./duplicates.js";

const PAGE = 40;
const VIEWS = ["search", "labels", "map", "duplicates"];
const act = { open, like: moreLike };
let about = { upload_limit: 32e6 };
let parts = []; // pictures of the query: {id, src, name} of the index or {vector, src, name} from outside
let shown = []; // what the grid holds
let opened = { list: [], place: 0 };

// -- views and their address -------------------------------------------------------------------------------------------

function address() {
  const [view, query] = location.hash.slice(1).split("?");
  return [VIEWS.includes(view) ? view : "search", new URLSearchParams(query || "")];
}

function go(view, query = "") {
  const hash = `#${view}${query && `?${query}`}`;
  if (location.hash === hash) show();
  else location.hash = hash;
}

async function show() {
  const [view, query] = address();
  clear();
  for (const name of VIEWS) $(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (view === "search") await fromAddress(query);
    else if (view === "labels") await showLabels(query.get("picture"));
    else if (view === "map") await showMap(act);
    else await showDuplicates(act);
  } catch (error) {
    fail(error);
  }
}

async function fromAddress(query) {
  for (const name of ["words", "without", "caption"]) {
    if (document.activeElement !== $(name)) $(name).value = query.get(name) || "";
  }
  const like = query.getAll("like").map(Number);
  const known = new Map(parts.filter((part) => part.id !== undefined).map((part) => [part.id, part]));
  const wanted = await Promise.all(like.map(async (id) => known.get(id) || asPart(await api("GET", `/api/pictures/${id}`))));
  parts = [...wanted, ...parts.filter((part) => part.vector)];
  drawParts();
  await search();
}

const asPart = (entry) => ({ id: entry.id, src: entry.thumbnail, name: nameOf(entry) });

// The query as the address holds it; pictures from outside stay with this page.
function asked() {
  const query = new URLSearchParams();
  for (const name of ["words", "without", "caption"]) if ($(name).value.trim()) query.set(name, $(name).value.trim());
  for (const part of parts) if (part.id !== undefined) query.append("like", part.id);
  return query.toString();
}

// -- searching ---------------------------------------------------------------------------------------------------------

const listed = (text) => text.split(";").map((part) => part.trim()).filter(Boolean);

async function search(limit = PAGE) {
  const query = {
    texts: listed($("words").value), without: listed($("without").value), caption: $("caption").value.trim(), limit,
    like: parts.filter((part) => part.id !== undefined).map((part) => part.id),
    vectors: parts.filter((part) => part.vector).map((part) => part.vector),
  };
  const searching = query.texts.length || query.without.length || query.caption || parts.length;
  $("status").classList.add("busy");
  const start = performance.now();
  try {
    if (searching) {
      const { hits } = await api("POST", "/api/search", query, "search");
      clear();
      drawHits(hits, limit, `${count(hits.length)}, best first · ${Math.round(performance.now() - start)} ms`);
    } else {
      const { pictures } = await api("GET", `/api/pictures?limit=${limit}`, undefined, "search");
      clear();
      drawHits(pictures, limit, pictures.length ? "The newest pictures" : "");
    }
    $("status").classList.remove("busy");
  } catch (error) {
    if (error.name === "AbortError") return; // the next one is on its way
    $("status").classList.remove("busy");
    $("status").textContent = "";
    fail(error);
  }
}

const count = (number) => (number === 1 ? "1 picture" : `${number} pictures`);

function drawHits(found, limit, text) {
  shown = found;
  $("status").textContent = found.length ? text : "";
  $("hits").replaceChildren(...found.map((entry) => card(entry, found, act)));
  $("more").hidden = found.length < limit || limit >= 1000;
  if (!found.length) {
    const why = about.pictures ? ["No picture found", "Try other words, or fewer of them in the caption."]
      : ["No picture yet", "Add some with lightning-clip index build; they appear here by themselves."];
    $("hits").append(empty(...why));
  }
}

function drawParts() {
  $("parts").replaceChildren(...parts.map((part) => el("li", {},
    el("img", { src: part.src, alt: "" }), `like ${part.name.slice(0, 40)}`,
    el("button", { type: "button", "aria-label": `Without ${part.name}`, onclick: () => drop(part) }, "×"))));
}

function drop(part) {
  parts = parts.filter((one) => one !== part);
  if (part.vector) URL.revokeObjectURL(part.src);
  go("search", asked());
}

function moreLike(entry) {
  $("details").close();
  for (const name of ["words", "without", "caption"]) $(name).value = "";
  parts = [asPart(entry)];
  window.scrollTo(0, 0);
  go("search", asked());
}

async function take(file) {
  clear();
  if (!file) return;
  const [view] = address();
  try {
    const found = await encoded(file, about.upload_limit);
    if (view === "labels") return await subject(found);
    parts = [...parts, found];
    go("search", asked());
  } catch (error) {
    fail(error);
  }
}

// -- details -----------------------------------------------------------------------------------------------------------

function open(entry, list = [entry]) {
  opened = { list, place: list.indexOf(entry) };
  $("details-picture").replaceChildren(picture(entry, false));
  $("details-captions").replaceChildren(...entry.captions.map((text) => el("p", {}, text)));
  const facts = { Place: entry.place, Size: `${entry.width} × ${entry.height}`, Number: entry.id };
  if (entry.score !== undefined) facts.Score = entry.score.toFixed(3);
  $("details-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
  $("previous").disabled = opened.place <= 0;
  $("next").disabled = opened.place >= list.length - 1;
  $("details-copy").textContent = "Copy place";
  $("where-text").value = listed($("words").value)[0] || "";
  if (!$("details").open) $("details").showModal();
}

// The picture lit up where a text is seen in it; without a text, as it is.
async function where(event) {
  event.preventDefault();
  const text = $("where-text").value.trim(), entry = opened.list[opened.place];
  if (!text) { $("details-picture").replaceChildren(picture(entry, false)); return; }
  $("details-captions").querySelector(".status")?.remove();
  try {
    const lit = await api("GET", `/api/pictures/${entry.id}/relevance?text=${encodeURIComponent(text)}`, undefined, "where");
    const image = el("img", { src: URL.createObjectURL(lit), alt: `where ${text} is seen` });
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    $("details-picture").replaceChildren(image);
  } catch (error) {
    if (error.name !== "AbortError") $("details-captions").append(el("p", { class: "status bad" }, error.message));
  }
}

function step(by) {
  const entry = opened.list[opened.place + by];
  if (entry) open(entry, opened.list);
}

// -- keys --------------------------------------------------------------------------------------------------------------

function moveIn(event) {
  const all = [...document.querySelectorAll(".view:not([hidden]) .open")];
  const at = all.indexOf(document.activeElement);
  if (at < 0 || !event.key.startsWith("Arrow")) return;
  const top = all[at].getBoundingClientRect().top;
  const columns = all.filter((one) => Math.abs(one.getBoundingClientRect().top - top) < 4).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  event.preventDefault();
  all[Math.min(Math.max(at + by, 0), all.length - 1)].focus();
}

function pressed(event) {
  const writing = /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName) && document.activeElement.type !== "range";
  if (event.ctrlKey || event.metaKey || event.altKey || writing) return;
  if ($("details").open) {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === "m") moreLike(opened.list[opened.place]);
    return;
  }
  if (event.key === "/") { event.preventDefault(); if (address()[0] !== "search") go("search"); $("search").hidden = false; $("words").focus(); }
  else if (event.key === "?") $("keys").showModal();
  else if (event.key === "m" && document.activeElement.entry) moreLike(document.activeElement.entry);
  else if (VIEWS["1234".indexOf(event.key)]) go(VIEWS["1234".indexOf(event.key)]);
  else moveIn(event);
}

// -- the state of the index --------------------------------------------------------------------------------------------

async function look() {
  let wait = 5000;
  try {
    const before = about.pictures;
    about = await api("GET", "/api/index");
    $("name").textContent = document.title = about.name;
    $("count").textContent = count(about.pictures).replace(/\d+/, (digits) => Number(digits).toLocaleString("en"));
    const building = about.building;
    $("building").hidden = !building;
    if (building) {
      wait = 1500;
      $("building-text").textContent = building.of
        ? `The index is being written: ${building.done.toLocaleString("en")} of ${building.of.toLocaleString("en")} pictures. They can be searched as they come.`
        : "The index is being written. What is in it can be searched.";
      if (building.of) { $("building-bar").max = building.of; $("building-bar").value = building.done; }
      else $("building-bar").removeAttribute("value");
    }
    if (!about.reads_texts) $("words").placeholder = "this model reads no texts: search by a picture";
    if (before !== undefined && before !== about.pictures && address()[0] === "search" && !asked() && !parts.length) await search();
    if (!$("error").hidden && $("error").dataset.lost) show(); // it is there again
  } catch (error) {
    fail(error);
    wait = 2000;
  }
  setTimeout(look, wait);
}

// -- wiring ------------------------------------------------------------------------------------------------------------

const typed = later(250, () => {
  const [view] = address();
  if (view === "search") { history.replaceState(null, "", `#search${asked() && `?${asked()}`}`); search(); }
});
for (const name of ["words", "without", "caption"]) $(name).addEventListener("input", typed);
$("query").addEventListener("submit", (event) => { event.preventDefault(); go("search", asked()); });
$("more").addEventListener("click", () => search(shown.length + PAGE));
for (const [input, run] of [["choose", take], ["choose-subject", take]]) {
  $(input).addEventListener("change", (event) => { run(event.target.files[0]); event.target.value = ""; });
}
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("details-like").addEventListener("click", () => moreLike(opened.list[opened.place]));
$("details-labels").addEventListener("click", () => { $("details").close(); go("labels", `picture=${opened.list[opened.place].id}`); });
$("details-copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(opened.list[opened.place].place).then(
    () => { $("details-copy").textContent = "Copied"; }, () => { $("details-copy").textContent = "Select and copy it"; });
});
$("where").addEventListener("submit", where);
$("help").addEventListener("click", () => $("keys").showModal());
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", document.documentElement.dataset.theme = dark ? "light" : "dark");
  window.dispatchEvent(new Event("resize")); // the map takes the new colours
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest("[data-close]")) dialog.close(); });
}
let inside = 0;
const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (holdsFile(event)) { inside += 1; $("drop").hidden = false; } });
addEventListener("dragleave", () => { inside = Math.max(inside - 1, 0); if (!inside) $("drop").hidden = true; });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); inside = 0; $("drop").hidden = true; take(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files[0]); } });
addEventListener("keydown", pressed);
addEventListener("hashchange", show);
show();
look();
