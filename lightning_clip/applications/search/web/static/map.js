// The map: points by two principal components; pictures themselves where there is room for them.
import { $, api, el, fail, nameOf, picture } from "./parts.js";

const canvas = $("canvas"), pen = canvas.getContext("2d");
const ROOM = 500; // so many pictures are drawn as pictures
let act = null, points = [], place = { x: 0, y: 0, zoom: 1 }, near = null, drag = null;
const images = new Map(), entries = new Map(), fingers = new Map();

export async function showMap(given) {
  act = given;
  $("map-status").textContent = "Drawing the map";
  $("map-status").classList.add("busy");
  try {
    const found = await api("GET", "/api/map", undefined, "map");
    points = found.points;
    const share = Math.round(100 * (found.explained[0] + found.explained[1]));
    const part = points.length < found.of ? `${points.length.toLocaleString("en")} of ${found.of.toLocaleString("en")} pictures` : `${points.length.toLocaleString("en")} pictures`;
    $("map-status").textContent = points.length
      ? `${part}. Near each other is what the model finds similar, as far as two directions tell: they hold ${share} % of the differences.`
      : "No picture yet: add some with lightning-clip index build.";
  } finally {
    $("map-status").classList.remove("busy");
  }
  draw();
}

const scale = () => 0.46 * Math.min(canvas.clientWidth, canvas.clientHeight) * place.zoom;
const onScreen = ([, x, y]) => [canvas.clientWidth / 2 + (x - place.x) * scale() * stretch(), canvas.clientHeight / 2 - (y - place.y) * scale()];
// A wide window shows a wide map: more room between points.
const stretch = () => Math.min(Math.max(canvas.clientWidth / Math.max(canvas.clientHeight, 1), 1), 1.9);

function visible() {
  return points.map((point) => [point, ...onScreen(point)])
    .filter(([, x, y]) => x > -40 && y > -40 && x < canvas.clientWidth + 40 && y < canvas.clientHeight + 40);
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}

function paint() {
  if ($("map").hidden) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const found = visible(), size = Math.min(0.035 * Math.sqrt(canvas.clientWidth * canvas.clientHeight * place.zoom), 84), style = getComputedStyle(canvas);
  const edge = style.getPropertyValue("--line"), accent = style.getPropertyValue("--accent");
  const radius = Math.min(3.5 + 1.2 * place.zoom, 8);
  let pictures = 0;
  for (const [[id, , , red, green, blue], x, y] of found) {
    const image = found.length <= ROOM ? imageOf(id) : null;
    if (image?.complete && image.naturalWidth) {
      pictures += 1;
      const part = size / Math.max(image.naturalWidth, image.naturalHeight);
      const [width, height] = [image.naturalWidth * part, image.naturalHeight * part];
      pen.drawImage(image, x - width / 2, y - height / 2, width, height);
      pen.strokeStyle = id === near ? accent : edge;
      pen.lineWidth = id === near ? 3 : 1;
      pen.strokeRect(x - width / 2, y - height / 2, width, height);
    } else {
      pen.beginPath();
      pen.arc(x, y, id === near ? radius + 3 : radius, 0, 7);
      pen.fillStyle = `rgb(${red} ${green} ${blue})`;
      pen.fill();
      pen.strokeStyle = id === near ? accent : "rgb(127 127 140 / .55)";
      pen.lineWidth = id === near ? 3 : 1;
      pen.stroke();
    }
  }
  Object.assign(canvas.dataset, { visible: found.length, pictures }); // a canvas has nothing else that can be read
  canvas.dataset.zoom = place.zoom.toFixed(2);
}

function imageOf(id) {
  if (!images.has(id)) {
    const image = new Image();
    image.onload = draw;
    image.src = `/api/pictures/${id}/thumbnail`;
    images.set(id, image);
  }
  return images.get(id);
}

function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = [(x - canvas.clientWidth / 2) / (scale() * stretch()), (canvas.clientHeight / 2 - y) / scale()];
  place.zoom = Math.min(Math.max(place.zoom * factor, 0.7), 60);
  const after = [(x - canvas.clientWidth / 2) / (scale() * stretch()), (canvas.clientHeight / 2 - y) / scale()];
  place.x += before[0] - after[0];
  place.y += before[1] - after[1];
  draw();
}

function moveBy(x, y) {
  place.x -= x / (scale() * stretch());
  place.y += y / scale();
  draw();
}

function nearest(x, y, reach = 28) {
  let best = null, least = reach * reach;
  for (const [point, left, top] of visible()) {
    const distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

async function entryOf(id) {
  if (!entries.has(id)) entries.set(id, await api("GET", `/api/pictures/${id}`));
  return entries.get(id);
}

async function point(x, y) {
  const found = nearest(x, y);
  if ((found?.[0] ?? null) === near) return;
  near = found?.[0] ?? null;
  draw();
  $("hover").hidden = true;
  if (near === null) return;
  const entry = await entryOf(near);
  if (entry.id !== near) return; // the pointer has moved on
  $("hover").replaceChildren(picture(entry, false), el("p", {}, nameOf(entry)));
  $("hover").hidden = false;
  const [left, top] = onScreen(found);
  $("hover").style.left = `${Math.min(Math.max(left + 16, 6), canvas.clientWidth - 176)}px`;
  $("hover").style.top = `${Math.min(Math.max(top - 60, 6), canvas.clientHeight - 190)}px`;
}

const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
const spread = () => { const [one, other] = [...fingers.values()]; return Math.hypot(one[0] - other[0], one[1] - other[1]); };

async function openAt(x, y, reach) {
  const found = nearest(x, y, reach);
  if (found) act.open(await entryOf(found[0]));
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  drag = { from: at(event), moved: fingers.size > 1, spread: fingers.size === 2 ? spread() : 0 };
});
canvas.addEventListener("pointermove", (event) => {
  const now = at(event), before = fingers.get(event.pointerId);
  if (!before) { point(...now).catch(fail); return; }
  fingers.set(event.pointerId, now);
  if (fingers.size === 2) { const wide = spread(); zoomBy(wide / (drag.spread || wide), ...now); drag.spread = wide; return; }
  if (Math.hypot(now[0] - drag.from[0], now[1] - drag.from[1]) > 5) drag.moved = true;
  if (drag.moved) { $("hover").hidden = true; moveBy(now[0] - before[0], now[1] - before[1]); }
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (name === "pointerup" && drag && !drag.moved) openAt(...at(event)).catch(fail);
    fingers.delete(event.pointerId);
  });
}
canvas.addEventListener("pointerleave", () => { near = null; $("hover").hidden = true; draw(); });
canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoomBy(Math.exp(-event.deltaY / 400), ...at(event)); }, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const step = 60, keys = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  if (keys[event.key]) moveBy(...keys[event.key]);
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") all();
  else if (event.key === "Enter") openAt(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity).catch(fail);
  else return;
  event.preventDefault();
});
const all = () => { place = { x: 0, y: 0, zoom: 1 }; draw(); };
$("zoom-in").addEventListener("click", () => zoomBy(1.5));
$("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
$("zoom-all").addEventListener("click", all);
addEventListener("resize", draw);
