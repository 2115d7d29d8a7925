"""Robustness: accuracy on clean and on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.corruptions import CORRUPTIONS, parse_corruption
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent, percent

__all__ = ["Robustness"]


@protocols.register("robustness")
class Robustness(Protocol):
    """Zero-shot accuracy under corruptions that are made on the fly, in several strengths.

    Metrics: mean_corrupted (over corruptions and strengths), clean, relative (mean_corrupted / clean), and each
    "<corruption>:<strength>".

    Args:
        corruptions: names of `CORRUPTIONS`.
        strengths: of 1 to 5.
    """

    title = "Robustness to corruption"

    def __init__(self, corruptions: Sequence[str] = tuple(CORRUPTIONS), strengths: Sequence[int] = (1, 3, 5)) -> None:
        self.corruptions, self.strengths = list(corruptions), sorted(strengths)
        if not self.corruptions or not self.strengths:
            raise InputError("robustness needs at least one corruption and one strength")
        for spec in self._specs():
            parse_corruption(spec)

    def evaluate(self, subject: Subject) -> Result:
        """Accuracy on clean images and under each corruption."""

        def right(corruption: str | None) -> list[float]:
            scores = subject.scores(corruption=corruption)
            if scores.label.ndim == 2:
                raise InputError("robustness is for one class an image: omit it for a multilabel set")
            return (scores.values.argmax(dim=1) == scores.label).float().tolist()

        clean = right(None)
        each = {spec: right(spec) for spec in self._specs()}
        shares = {spec: sum(values) / len(values) for spec, values in each.items()}
        per_image = [sum(values) / len(values) for values in zip(*each.values(), strict=True)]
        mean, whole = sum(shares.values()) / len(shares), sum(clean) / len(clean)
        metrics = {"mean_corrupted": mean, "clean": whole, "relative": mean / whole if whole else 0.0, **shares}
        chance = 1 / len(subject.dataset.class_names)
        return Result(metrics, {name: chance for name in metrics if name != "relative"}, per_image)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table and a figure for each model."""
        found = []
        for name, result in results.items():
            header = ("top-1 in %", *(f"strength {strength}" for strength in self.strengths))
            rows = [
                (kind.replace("_", " "), *(in_percent(result.metrics[f"{kind}:{strength}"]) for strength in self.strengths))
                for kind in self.corruptions
            ]
            clean, mean = percent(result.metrics["clean"]), percent(result.metrics["mean_corrupted"])
            text = f"Clean images: {clean}; mean over all corruptions: {mean}."
            figure = ("accuracy by strength", self._figure(result))
            found.append(Section(f"{name}: robustness to corruption", text, Table(header, rows), [figure]))
        return found

    def _specs(self) -> list[str]:
        return [f"{name}:{strength}" for name in self.corruptions for strength in self.strengths]

    def _figure(self, result: Result) -> Figure:
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for kind in self.corruptions:
            values = [result.metrics["clean"], *(result.metrics[f"{kind}:{strength}"] for strength in self.strengths)]
            axes.plot([0, *self.strengths], [100 * value for value in values], marker="o", markersize=3, label=kind)
        axes.axhline(100 * result.chance["clean"], color="#8a8f98", linestyle=":", label="chance")
        axes.set(xlabel="strength (0: clean)", ylabel="top-1, %", title="corruptions")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
        return figure
