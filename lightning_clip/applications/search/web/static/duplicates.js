// Duplicates: groups of pictures that are alike.
import { $, api, card, el, empty, fail, later } from "./parts.js";

let act = null;

export async function showDuplicates(given) {
  act = given;
  const status = $("duplicates-status");
  status.textContent = "Comparing pictures";
  status.classList.add("busy");
  try {
    const found = await api("GET", `/api/duplicates?threshold=${$("threshold").value}`, undefined, "duplicates");
    draw(found);
    status.classList.remove("busy");
  } catch (error) {
    if (error.name === "AbortError") return;
    status.classList.remove("busy");
    status.textContent = "";
    throw error;
  }
}

function draw({ groups, count, repeated, all_pairs: allPairs }) {
  const known = `${count.toLocaleString("en")} ${count === 1 ? "group" : "groups"}, ${repeated.toLocaleString("en")} ${repeated === 1 ? "picture repeats" : "pictures repeat"} another`;
  const rest = groups.length < count ? ` · the largest ${groups.length} are shown` : "";
  const near = allPairs ? "" : " · in a large collection, each picture is compared with the 256 that follow it, and copies with all";
  $("duplicates-status").textContent = count ? known + rest + near : near.slice(3);
  $("groups").replaceChildren(...groups.map((group) => el("section", { class: "group" },
    el("h2", {}, `${group.length} pictures`), el("div", { class: "grid" }, ...group.map((entry) => card(entry, group, act))))));
  if (!count) $("groups").append(empty("No picture is so like another", "Move the slider to the left to find those that are less alike."));
}

const again = later(300, () => showDuplicates(act).catch(fail));
$("threshold").addEventListener("input", () => { $("threshold-value").textContent = Number($("threshold").value).toFixed(3).replace(/0$/, ""); again(); });
