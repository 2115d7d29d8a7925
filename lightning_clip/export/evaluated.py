"""What `lightning-clip evaluate` found of a model, for its card: a table, plots, and figures that the hub reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["PLOTS", "Evaluation", "found_beside", "read_text"]

PLOTS = "plots"  # folder of a written model's plots

# Our protocol -> the hub's task; others keep our name.
_TASKS = {
    "zero_shot": "zero-shot-image-classification",
    "linear_probe": "image-classification",
    "few_shot": "image-classification",
    "detection": "zero-shot-object-detection",
    "segmentation": "image-segmentation",
    "video_zero_shot": "video-classification",
}
_FIGURES = "report_figures"  # beside report.json; nothing from elsewhere is copied, whatever stands there
_UNFOLDED = 4  # plots that are shown at once
_METRICS = {"top1": "accuracy"}  # our measure -> the hub's; others keep our name


@dataclass(frozen=True)
class Evaluation:
    """A report of `lightning-clip evaluate`.

    Attributes:
        place: folder that it lies in.
        table: in Markdown.
        plots: what each shows, and its PNG file.
        models: name -> identity of the models that were measured.
        results: set -> protocol -> model -> measure -> value, as in report.json.
    """

    place: Path
    table: str
    plots: list[tuple[str, Path]] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, place: str | Path) -> Evaluation:
        """Reads a report.

        Args:
            place: the folder that `lightning-clip evaluate` wrote, or its report.json or report.md.

        Raises:
            InputError: no such report, or a damaged one.
        """
        found = existing_path(str(place), "evaluation")
        folder = found if found.is_dir() else found.parent
        table, record = folder / "report.md" if found.is_dir() or found.suffix == ".json" else found, folder / "report.json"
        if not table.is_file():
            raise InputError(f"evaluation {str(place)!r} has no report.md: give a folder that lightning-clip evaluate wrote")
        text = read_text(table, "evaluation")
        if not record.is_file():
            return cls(folder, text)
        try:
            content = json.loads(read_text(record, "evaluation"))
            plots = [(str(plot["title"]), folder / _FIGURES / Path(plot["file"]).name) for plot in content.get("plots", [])]
            models, results = dict(content.get("models", {})), dict(content["results"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"evaluation {str(record)!r} is damaged ({error!r}): run lightning-clip evaluate again") from error
        return cls(folder, text, [(title, file) for title, file in plots if file.is_file()], models, results)

    def markdown(self) -> str:
        """The table, and the plots as they stand in a folder beside the card; many of them are folded."""
        shown = "\n\n".join(f"![{_alternative(title)}]({PLOTS}/{file.name})" for title, file in self.plots)
        if len(self.plots) > _UNFOLDED:
            shown = f"<details><summary>{len(self.plots)} plots</summary>\n\n{shown}\n\n</details>"
        return f"{self.table.strip()}\n\n{shown}"

    def figures(self, identity: str) -> list[EvalResult]:
        """Figures of one model for the hub's model index; none where the report has measured other weights.

        Args:
            identity: of the model.
        """
        names = [name for name, known in self.models.items() if known == identity]
        return [
            EvalResult(
                task_type=_TASKS.get(protocol, protocol.replace("_", "-")),
                task_name=protocol.replace("_", " "),
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=_METRICS.get(measure, measure),
                metric_name=measure,
                metric_value=round(float(value), 6),
            )
            for dataset, protocol, measure, value in _measures(self.results, names[:1])
        ]


def _alternative(title: str) -> str:
    """What a plot shows, in brackets: names of classes and sets may hold some themselves."""
    return title.translate({ord("["): "(", ord("]"): ")", ord("\n"): " "})


def found_beside(checkpoint: Path, identity: Callable[[], str]) -> Evaluation | None:
    """The newest report in a folder beside a checkpoint, or one folder up, that has measured these very weights.

    Args:
        checkpoint: a file.
        identity: of its weights; asked for only where there is a report.
    """
    records = {file for folder in (checkpoint.parent, checkpoint.parent.parent) for file in folder.glob("*/report.json")}
    for file in sorted(records, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            found = Evaluation.read(file)
        except InputError:  # of something else: nobody has named it
            continue
        if found.models and identity() in found.models.values():
            return found
    return None


def read_text(path: Path, what: str) -> str:
    """A text file's content.

    Args:
        path: of the file.
        what: it is, for the error.

    Raises:
        InputError: no readable text.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {str(path)!r} is no readable text ({error}): give a text file, in UTF-8") from error


def _measures(results: Mapping[str, Any], names: list[str]) -> Iterator[tuple[str, str, str, float]]:
    """Set, protocol, measure and value of the models of these names; what is not finite is no figure."""
    for dataset, of_set in results.items():
        for protocol, of_models in of_set.items():
            for name in names:
                for measure, value in of_models.get(name, {}).get("metrics", {}).items():
                    if math.isfinite(value):
                        yield dataset, protocol, measure, value
