// Labels: how probable each is for a picture, while they are typed.
import { $, api, clear, el, fail, later, nameOf, Refused } from "./parts.js";

let current = null; // {id, src, name} of the index, or {vector, src, name}

export async function showLabels(id) {
  if (id !== null && String(current?.id) !== id) {
    const entry = await api("GET", `/api/pictures/${encodeURIComponent(id)}`);
    current = { id: entry.id, src: entry.thumbnail, name: nameOf(entry) };
  }
  await draw();
}

export async function subject(found) {
  current = found;
  if (location.hash !== "#labels") history.replaceState(null, "", "#labels");
  await draw();
}

async function draw() {
  if (current) $("subject").replaceChildren(el("img", { src: current.src, alt: current.name }));
  await score();
}

const names = () => $("names").value.split(/[,\n]/).map((name) => name.trim()).filter(Boolean);

async function score() {
  const status = $("labels-status");
  status.classList.remove("bad");
  if (!current) { status.textContent = "Bars appear here once there is a picture."; return; }
  const body = { labels: names(), prompt: $("prompt").value.trim() || "{}" };
  Object.assign(body, current.id === undefined ? { vector: current.vector } : { picture: current.id });
  try {
    const { labels } = await api("POST", "/api/classify", body, "classify");
    clear();
    status.textContent = "";
    bars(labels.sort((one, other) => other.probability - one.probability));
  } catch (error) {
    if (!(error instanceof Refused)) return fail(error);
    status.classList.add("bad"); // beside what is being typed
    status.textContent = error.message;
  }
}

function bars(labels) {
  $("bars").replaceChildren(...labels.map(({ label, probability }) => {
    const bar = el("i", { "aria-hidden": "true" });
    bar.style.setProperty("--share", `${100 * probability}%`);
    return el("li", {}, el("b", {}, label), el("span", {}, `${(100 * probability).toFixed(1)} %`), bar);
  }));
}

const typed = later(250, score);
$("names").addEventListener("input", typed);
$("prompt").addEventListener("input", typed);
$("random").addEventListener("click", async () => {
  try {
    const { points } = await api("GET", "/api/map");
    if (!points.length) throw new Refused("The collection has no picture yet.");
    location.hash = `labels?picture=${points[Math.floor(Math.random() * points.length)][0]}`;
  } catch (error) {
    fail(error);
  }
});
