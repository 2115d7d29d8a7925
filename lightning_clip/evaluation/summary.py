"""The report of a suite as an HTML page, JSON, CSV and markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from matplotlib.figure import Figure

from lightning_clip.core.atomic import beside
from lightning_clip.evaluation.comparison import bootstrap_interval, paired_bootstrap
from lightning_clip.evaluation.protocols import Result
from lightning_clip.evaluation.relevance_examples import relevance_sections
from lightning_clip.evaluation.run_suite import Outcome
from lightning_clip.reporting.html import Section, Table, write_report
from lightning_clip.reporting.text import in_markdown, in_percent

__all__ = ["headline_rows", "write_summary"]

HEADER = ("set", "protocol", "measure", "model", "value", "95 % interval", "chance")


def write_summary(outcome: Outcome, folder: Path, title: str = "Evaluation") -> Path:
    """Writes report.html, report.json, report.csv and report.md.

    Args:
        outcome: of `run_suite`.
        folder: is made if it does not exist.
        title: of the page.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = headline_rows(outcome)
    sections = [Section("Summary", "Shares in per cent; intervals by bootstrap over images.", Table(HEADER, rows))]
    sections += _probe_bars(outcome) + _differences(outcome) + _failures(outcome)
    for name, of_set in outcome.results.items():
        for label, results in of_set.items():
            protocol = outcome.protocols[name][label]
            dataset = outcome.datasets[name]
            looks = relevance_sections(outcome.opened, results, protocol, dataset)
            for section in [*protocol.sections(results, dataset), *looks]:
                section.title = f"{name}, {protocol.title.lower()}: {section.title}"
                sections.append(section)
    page = folder / "report.html"
    pictured = f"{sum(outcome.images.values()):,} images in {len(outcome.images)} sets"
    plots = [{"title": words, "file": file.name} for words, file in write_report(page, title, pictured, sections)]
    _write(folder / "report.json", json.dumps({**_plain(outcome), "plots": plots}, ensure_ascii=False, indent=1))
    _write(folder / "report.csv", _csv(outcome))
    _write(folder / "report.md", _markdown(rows))
    return page


def headline_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """The first measure of each protocol, of each model on each set, as the columns of `HEADER`.

    Args:
        outcome: of `run_suite`.
    """
    rows: list[tuple[str, ...]] = []
    for name, of_set in outcome.results.items():
        for label, results in of_set.items():
            for model, result in results.items():
                measure, value = next(iter(result.metrics.items()))
                interval = ""
                if result.per_image and abs(sum(result.per_image) / len(result.per_image) - value) < 1e-6:
                    found = bootstrap_interval(result.per_image)
                    interval = f"{in_percent(found.low)} to {in_percent(found.high)}"
                chance = in_percent(result.chance[measure]) if measure in result.chance else ""
                rows.append((name, label, measure, model, in_percent(value), interval, chance))
    return rows


def _probe_bars(outcome: Outcome) -> list[Section]:
    """Zero-shot minus linear probe on each set (Radford et al. 2021, figure 5)."""
    gaps = []
    for name, of_set in outcome.results.items():
        for model, probe in of_set.get("linear_probe", {}).items():
            if (
                (zero_shot := of_set.get("zero_shot", {}).get(model))
                and "top1" in zero_shot.metrics
                and "top1" in probe.metrics
            ):
                gaps.append((100 * (zero_shot.metrics["top1"] - probe.metrics["top1"]), f"{name}, {model}"))
    if not gaps:
        return []
    gaps.sort()
    figure = Figure(figsize=(6.4, 0.9 + 0.35 * len(gaps)), layout="constrained")
    axes = figure.add_subplot()
    values, names = zip(*gaps, strict=True)
    axes.barh(names, values, color=["#2e8b57" if value >= 0 else "#c0392b" for value in values])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="points of top-1 accuracy", title="zero-shot minus linear probe")
    axes.spines[["top", "right"]].set_visible(False)
    return [Section("Zero-shot beside a linear probe on all labels", figures=[("zero-shot minus probe", figure)])]


def _differences(outcome: Outcome) -> list[Section]:
    rows = []
    for name, of_set in outcome.results.items():
        for label, results in of_set.items():
            for first, second in combinations(results, 2):
                a, b = results[first].per_image, results[second].per_image
                if a and b and len(a) == len(b):
                    found = paired_bootstrap(a, b)
                    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
                    rows.append((name, label, f"{first} - {second}", f"{100 * found.mean:+.1f}", ends))
    header = ("set", "protocol", "models", "points", "95 % interval")
    return [Section("Models side by side", "Paired bootstrap over the same images.", Table(header, rows))] if rows else []


def _failures(outcome: Outcome) -> list[Section]:
    rows = [(failure.dataset, failure.protocol, failure.model, failure.reason) for failure in outcome.failures]
    return [Section("Not measured", table=Table(("set", "protocol", "model", "reason"), rows))] if rows else []


def _plain(outcome: Outcome) -> dict[str, object]:
    results = {
        name: {label: {model: asdict(result) for model, result in found.items()} for label, found in of_set.items()}
        for name, of_set in outcome.results.items()
    }
    failures = [asdict(failure) for failure in outcome.failures]
    return {"models": outcome.models, "images": outcome.images, "results": results, "failures": failures}


def _csv(outcome: Outcome) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(("set", "protocol", "model", "measure", "value", "chance"))
    for name, of_set in outcome.results.items():
        for label, results in of_set.items():
            for model, result in results.items():
                writer.writerows(_measures(name, label, model, result))
    return stream.getvalue()


def _measures(name: str, label: str, model: str, result: Result) -> list[tuple[object, ...]]:
    chance: Mapping[str, float] = result.chance
    return [(name, label, model, measure, value, chance.get(measure, "")) for measure, value in result.metrics.items()]


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join([*lines, *("| " + " | ".join(map(in_markdown, row)) + " |" for row in rows), ""])


def _write(path: Path, text: str) -> None:
    with beside(path) as place:
        place.write_text(text, encoding="utf-8")
