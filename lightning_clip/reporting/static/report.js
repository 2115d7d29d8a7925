// A click on a column's name sorts its table: numbers from the largest, texts from A; once more turns the order round.
"use strict";
const number = (text) => parseFloat(text.replace(/[,\s]/g, "").replace("−", "-"));
const sort = (table, column, head) => {
  const rows = [...table.tBodies[0].rows];
  const text = (row) => row.cells[column] ? row.cells[column].textContent.trim() : "";
  const filled = rows.filter((row) => text(row) !== "");
  const numeric = filled.every((row) => !Number.isNaN(number(text(row))));
  const before = head.getAttribute("aria-sort");
  const up = before ? before === "descending" : !numeric;
  const compare = numeric
    ? (a, b) => number(text(a)) - number(text(b))
    : (a, b) => text(a).localeCompare(text(b), undefined, {numeric: true});
  filled.sort((a, b) => (up ? compare(a, b) : compare(b, a)));
  table.tBodies[0].append(...filled, ...rows.filter((row) => text(row) === ""));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
};
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, head));
    head.append(button);
  });
}
