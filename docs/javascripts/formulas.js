// Formulas that pymdownx.arithmatex marks, set by the KaTeX beside this file: no network is asked.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".arithmatex")) {
    const text = place.textContent.trim();
    katex.render(text.slice(2, -2), place, { displayMode: text.startsWith("\\["), throwOnError: true });
  }
});
