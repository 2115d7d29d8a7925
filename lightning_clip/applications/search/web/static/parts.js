// What all views share: elements, requests, cards, messages. Texts of others are set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export class Refused extends Error {}
class Lost extends Refused {} // the server is gone: the page says so until it is there again

// The answer of the API. A mistake is a Refused with the server's line; a later call with the same `turn` ends an earlier one.
const turns = new Map();
export async function api(method, path, body, turn) {
  turns.get(turn)?.abort();
  const stop = new AbortController();
  if (turn) turns.set(turn, stop);
  const raw = body instanceof Blob;
  const options = { method, signal: stop.signal, body: body === undefined || raw ? body : JSON.stringify(body) };
  if (body !== undefined) options.headers = { "Content-Type": raw ? "application/octet-stream" : "application/json" };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Lost("The server does not answer. Is lightning-clip serve still running?");
  }
  if (answer.ok && answer.headers.get("Content-Type")?.startsWith("image/")) return answer.blob();
  const found = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Refused(sentence(found.error));
  return found;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  $("error").textContent = error.message;
  $("error").dataset.lost = error instanceof Lost ? "yes" : "";
  $("error").hidden = false;
}

export const clear = () => { $("error").hidden = true; };

export function later(wait, run) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => run(...given), wait); };
}

export const nameOf = (entry) => entry.captions[0] || entry.key.split("/").pop();

export function picture(entry, lazy = true) {
  const image = el("img", { alt: nameOf(entry), src: entry.thumbnail, draggable: false });
  if (lazy) image.loading = "lazy";
  image.addEventListener("error", () => image.replaceWith(el("span", { class: "none" }, nameOf(entry))));
  return image;
}

// A picture that opens, and that more of its kind can be asked for. `list` is what previous and next go through.
export function card(entry, list, act) {
  const foot = el("div", { class: "foot" }, el("span", { class: "score" }, entry.score === undefined ? "" : entry.score.toFixed(3)));
  foot.append(el("button", { class: "like", type: "button", title: "More like this (m)", onclick: () => act.like(entry) }, "More like this"));
  const open = el("button", { class: "open", type: "button", title: nameOf(entry), onclick: () => act.open(entry, list) }, picture(entry));
  open.entry = entry;
  return el("article", { class: "card" }, open, el("div", { class: "text" }, el("p", {}, nameOf(entry)), foot));
}

export const empty = (title, text) => el("div", { class: "empty" }, el("b", {}, title), text);

// Features of a picture from outside, and an address to show it by.
export async function encoded(file, limit) {
  if (file.size > limit) {
    const size = (bytes) => Number((bytes / 1e6).toPrecision(2));
    throw new Refused(`The picture has ${size(file.size)} MB, more than ${size(limit)} MB: make it smaller.`);
  }
  const { vector } = await api("POST", "/api/encode", file);
  return { vector, name: file.name || "pasted picture", src: URL.createObjectURL(file) };
}
