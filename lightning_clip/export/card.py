"""The model card: a README.md with the facts of a module and its run, and no guesses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.yaml_bounds import check_growth
from lightning_clip.encoders import ImageEncoder, Tower
from lightning_clip.export.evaluated import Evaluation, found_beside, read_text
from lightning_clip.export.formats import Format
from lightning_clip.export.interface import Exportable
from lightning_clip.weights.files import read_file

__all__ = ["Run", "model_card"]

_LIMITS = (
    "The model repeats what its training pairs say, their errors and prejudices included. Similarities are not probabilities, "
    "and zero-shot accuracy depends on the wording of the class names and prompts: measure it on pictures of your own use "
    "before relying on it. Counting, fine distinctions and text inside pictures are known weaknesses of models of this kind "
    "(Radford et al. 2021, section 6). It is not made for surveillance or for judging people."
)
_UNMEASURED = "Not measured yet: `lightning-clip evaluate --checkpoint MODEL --suite SUITE.yaml`."


@dataclass
class Run:
    """What is known of how a model came about.

    Attributes:
        source: checkpoint, or the name under which the weights were published.
        recipe: its YAML, as `lightning-clip fit` wrote it.
        steps: optimizer steps.
        epochs: passes over the data.
        accelerator_seconds: by name of device, from `ComputeMeter`.
        samples: pairs seen, from `ComputeMeter`.
        evaluation: by `lightning-clip evaluate`.
        identity: of the weights, by which their figures are told from those of others.
    """

    source: str
    recipe: str | None = None
    steps: int | None = None
    epochs: int | None = None
    accelerator_seconds: dict[str, float] = field(default_factory=dict)
    samples: int | None = None
    evaluation: Evaluation | None = None
    identity: str = ""

    @classmethod
    def of(
        cls,
        source: str,
        recipe: str | None = None,
        evaluation: str | None = None,
        allow_pickle: bool = False,
        identity: Callable[[], str] = str,
    ) -> Run:
        """Reads what lies in and beside a checkpoint.

        Args:
            source: a .ckpt of ours, or another source of `from_pretrained`, of which nothing more is known.
            recipe: YAML of the run; None looks for config.yaml beside the checkpoint and one folder up.
            evaluation: folder that `lightning-clip evaluate` wrote, its report.json or report.md; None looks for a report on
                these very weights in folders beside the checkpoint and one folder up.
            allow_pickle: see `Source`.
            identity: of the weights; asked for only where there is a report.

        Raises:
            InputError: a recipe or an evaluation that does not exist.
        """
        run = cls(source)
        path = Path(source).expanduser()
        if path.suffix == ".ckpt" and path.is_file():
            content = read_file(path, allow_pickle)
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # of another form: a card is no place to reject one
                run.steps, run.epochs = content.get("global_step"), _whole_passes(content)
                if meter := content.get("callbacks", {}).get("ComputeMeter"):
                    run.accelerator_seconds = dict(meter["accelerator_seconds"])
                    run.samples = int(meter["span"].get("samples", 0)) or None
            run.source = path.name
            beside = [folder / "config.yaml" for folder in (path.parent, path.parent.parent)]
            run.recipe = next((read_text(file, "recipe") for file in beside if file.is_file()), None)
        if recipe is not None:
            run.recipe = read_text(existing_path(recipe, "recipe"), "recipe")
        if evaluation is not None:
            run.evaluation = Evaluation.read(evaluation)
        elif path.suffix == ".ckpt" and path.is_file():
            run.evaluation = found_beside(path, identity)
        run.identity = identity() if run.evaluation is not None and run.evaluation.models else ""
        return run


def _whole_passes(checkpoint: Mapping[str, Any]) -> int | None:
    """Epochs that were seen to their end; `epoch` alone counts from 0 and says nothing of the last one."""
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None:
        return checkpoint.get("epoch")
    begun = int(loop["epoch_progress"]["current"]["ready"])
    return begun if loop["epoch_loop.batch_progress"]["is_last_batch"] else max(begun - 1, 0)


def model_card(module: Exportable, run: Run, writer: Format, *, title: str, difference: float) -> str:
    """The text of README.md.

    Args:
        module: with weights.
        run: what is known of it.
        writer: the format.
        title: of the page, the folder's name.
        difference: largest one of unit features between the module and what the format's library reads.
    """
    library = writer.title.lower()
    parts = [_front(run, writer, title), f"# {title}", _what(module, run, writer.columns(module))]
    parts += ["## Use", _fenced("python", writer.usage.format(folder=title))]
    parts += [f"Read back by {library}, unit features differ from the original's by at most {difference:.1e}."]
    parts += ["## Training data", _data(run), "## Recipe", _recipe(run), "## Compute", _compute(run)]
    parts += [
        "## Evaluation",
        run.evaluation.markdown() if run.evaluation else _UNMEASURED,
    ]
    parts += ["## Limits", _LIMITS, *writer.notes(module)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _front(run: Run, writer: Format, title: str) -> str:
    """What the hub reads: library, tags, and the figures of these very weights."""
    figures = [] if run.evaluation is None else run.evaluation.figures(run.identity)
    index: dict[str, Any] = {"model_name": title, "eval_results": figures} if figures else {}
    data = ModelCardData(library_name=writer.title.lower(), tags=list(writer.tags), **index)
    return f"---\n{data.to_yaml().strip()}\n---"


def _what(module: Exportable, run: Run, held: Sequence[str]) -> str:
    rows = {
        **{f"{column} tower": _tower(module, column) for column in held},
        "shared width": str(module.embed_dim),
        "objective": type(module.objective).__name__,
        "weights from": run.source,
    }
    lines = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    columns = " and ".join(module.model.columns)
    which = "Towers" if len(held) == len(module.model.columns) else f"The {' and '.join(held)} tower of those"
    return f"{which} that put {columns} into one space, written by lightning_clip.\n\n| | |\n|---|---|\n{lines}"


def _tower(module: Exportable, column: str) -> str:
    tower: Tower = module.model.tower(column)
    count = sum(value.numel() for value in tower.parameters())
    reads = ""
    if column == "text":
        reads = f", up to {module.tokenizer.context_length} tokens"
    elif isinstance(tower, ImageEncoder):
        reads = f", {tower.image_size} x {tower.image_size} pixels"
    return f"{tower.architecture or type(tower).__name__}, {count:,} parameters{reads}"


def _data(run: Run) -> str:
    settings = _parsed(run.recipe).get("data")
    if not isinstance(settings, Mapping):
        return "Not recorded with this model."
    chosen = {key: settings[key] for key in ("train", "captions", "local_batch_size") if settings.get(key) is not None}
    seen = f"{run.samples:,} pairs were seen.\n\n" if run.samples else ""
    return seen + _fenced("yaml", yaml.safe_dump(chosen, allow_unicode=True, sort_keys=False))


def _recipe(run: Run) -> str:
    length = f"{run.steps:,} optimizer steps, {run.epochs} whole passes over the data.\n\n" if run.steps is not None else ""
    if run.recipe is None:
        return f"{length}The settings of the run are not recorded with this model."
    return f"{length}<details><summary>All settings</summary>\n\n{_fenced('yaml', run.recipe)}\n\n</details>"


def _fenced(language: str, text: str) -> str:
    """Text as it is, between fences that are longer than any row of backticks in it, so that none of them ends the block."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _compute(run: Run) -> str:
    if not run.accelerator_seconds:
        return "Not measured: the callback `ComputeMeter` keeps it in the checkpoint."
    rows = [(name, seconds) for name, seconds in sorted(run.accelerator_seconds.items())]
    rows += [("together", sum(run.accelerator_seconds.values()))] if len(rows) > 1 else []
    from lightning_clip.planning.formatting import accelerator_time  # here: planning opens modules

    lines = "\n".join(f"| {name} | {accelerator_time(seconds)} | {seconds / (365.25 * 86400):.3g} |" for name, seconds in rows)
    return f"| device | accelerator time | accelerator-years |\n|---|---|---|\n{lines}"


def _parsed(recipe: str | None) -> dict[str, Any]:
    """A recipe as far as it can be read: a card is no place to reject one."""
    try:
        check_growth(recipe or "", "recipe")
        found = yaml.safe_load(recipe or "")
    except (InputError, yaml.YAMLError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
