"""`lightning-clip interpolate|soup`: weights mixed from several checkpoints, with a table and a curve."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import only_writer

if TYPE_CHECKING:
    from lightning_clip.module.clip_module import ClipModule
    from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["add_interpolate_arguments", "add_soup_arguments", "run_interpolate", "run_soup"]


_MODELS = "a .ckpt, open_clip:NAME/TAG_OR_FILE, hf:NAME_OR_FOLDER or a folder"


def add_interpolate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `interpolate`."""
    parser.add_argument("first", help=f"before fine-tuning (alpha 0): {_MODELS}")
    parser.add_argument("second", help="after it (alpha 1), likewise")
    parser.add_argument("--alpha", default="0:1:0.1", help="one, several with commas, or FROM:TO:STEP (default: %(default)s)")
    parser.add_argument("--figure", help="PNG of the scores over alpha")
    _add_common(parser)


def add_soup_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `soup`."""
    parser.add_argument("checkpoint", nargs="+", help=f"fine-tuned from one start, which may be among them: {_MODELS}")
    parser.add_argument("--method", choices=("greedy", "uniform"), default="greedy", help="default: %(default)s")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", help="YAML file with sets, labelled or of pairs, as for evaluate")
    parser.add_argument("--choose-on", metavar="SET", help="the set of the suite by which is chosen; no test set")
    parser.add_argument(
        "--recalibrate", metavar="SET", help="re-estimate batch normalisation's statistics on this set's images"
    )
    parser.add_argument("--output", required=True, help="the .ckpt file to write; an existing one is never replaced")
    parser.add_argument("--num-workers", type=int, default=0, help="loader processes (default: %(default)s)")


def run_interpolate(arguments: argparse.Namespace) -> None:
    """Scores every alpha on every set, writes the best model.

    Raises:
        InputError: models that do not fit each other, a wrong alpha or suite, or an output that exists or is being written.
    """
    with only_writer(arguments.output, "--output"):
        _interpolate(arguments)


def _interpolate(arguments: argparse.Namespace) -> None:
    from rich.table import Table

    from lightning_clip.merging.interpolation import curve_figure, sweep
    from lightning_clip.merging.mixing import write_checkpoint
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.terminal import PlainConsole

    alphas, output = _alphas(arguments.alpha), _free(arguments.output)
    if arguments.figure and not arguments.figure.endswith(".png"):
        raise InputError(f"--figure {arguments.figure!r} must end in .png")
    sets = _sets(arguments, len(alphas) > 1, "--alpha with several values")
    first, second = _load(arguments.first), _load(arguments.second)
    chosen_on = _chosen(arguments, sets) if sets else ""
    score, prepare = _scorer(arguments), _preparation(arguments, sets, second)
    curve, mixed = sweep(first, second, sets or {"": _NOTHING}, chosen_on, alphas, prepare=prepare, score=score)
    if sets:
        marks = {name: " *" if name == chosen_on else "" for name in sets}
        table = Table("alpha", *(f"{name}, {curve.measures[name]}{marks[name]}" for name in sets))
        for place, alpha in enumerate(curve.alphas):
            row = (f"{100 * curve.scores[name][place]:.2f} %" for name in sets)
            table.add_row(f"{alpha:g}", *row, style="bold" if place == curve.best else "")
        PlainConsole().print(table)
    if arguments.figure:
        save_figure(curve_figure(curve), arguments.figure)
        print(f"figure: {arguments.figure}")
    write_checkpoint(mixed, output)
    best = f", the best on {chosen_on}" if len(alphas) > 1 else ""
    print(f"wrote {output}: alpha {curve.alphas[curve.best]:g}{best}")


def run_soup(arguments: argparse.Namespace) -> None:
    """Averages, with a table of what is in the soup.

    Raises:
        InputError: models that do not fit each other, a greedy soup without a suite, or an output that exists or is being
            written.
    """
    with only_writer(arguments.output, "--output"):
        _soup(arguments)


def _soup(arguments: argparse.Namespace) -> None:
    from rich.table import Table

    from lightning_clip.merging.mixing import write_checkpoint
    from lightning_clip.merging.model_score import measure
    from lightning_clip.merging.soups import greedy_soup, uniform_soup
    from lightning_clip.reporting.terminal import PlainConsole

    output = _free(arguments.output)
    sets = _sets(arguments, arguments.method == "greedy", "--method greedy")
    modules = [_load(path) for path in arguments.checkpoint]
    prepare = _preparation(arguments, sets, modules[0])
    name = _chosen(arguments, sets) if sets else ""
    measured = _scorer(arguments)
    score = (lambda module: measured(module, sets[name])) if sets else None
    if arguments.method == "greedy":
        assert score is not None
        soup = greedy_soup(modules, score, prepare)
    else:
        soup = uniform_soup(modules, score, prepare)
    if soup.score is not None:
        table = Table("model", f"{measure(sets[name])} on {name}", "in the soup")
        for place, (path, value) in enumerate(zip(arguments.checkpoint, soup.scores, strict=True)):
            table.add_row(path, f"{100 * value:.2f} %", "yes" if place in soup.used else "no")
        table.add_row("soup", f"{100 * soup.score:.2f} %", str(len(soup.used)), style="bold")
        PlainConsole().print(table)
    write_checkpoint(soup.module, output)
    print(f"wrote {output}: {len(soup.used)} of {len(modules)} models")


_NOTHING: EvaluationSet = None  # type: ignore[assignment]  # in the place of a set where nothing is scored


def _load(path: str) -> ClipModule:
    from lightning_clip.loading import open_module

    return open_module(path)


def _sets(arguments: argparse.Namespace, needed: bool, reason: str) -> dict[str, EvaluationSet]:
    from lightning_clip.merging.model_score import read_sets

    if arguments.suite is None:
        if needed or arguments.recalibrate:
            raise InputError(f"{reason if needed else '--recalibrate'} needs sets: give --suite and --choose-on")
        return {}
    return read_sets(arguments.suite)


def _chosen(arguments: argparse.Namespace, sets: dict[str, EvaluationSet]) -> str:
    from lightning_clip.merging.model_score import choose_set

    return choose_set(sets, arguments.choose_on)


def _scorer(arguments: argparse.Namespace) -> Callable[[ClipModule, EvaluationSet], float]:
    from lightning_clip.merging.model_score import score

    def scored(module: ClipModule, dataset: EvaluationSet) -> float:
        return 0.0 if dataset is _NOTHING else score(module, dataset, num_workers=arguments.num_workers)

    return scored


def _preparation(
    arguments: argparse.Namespace, sets: dict[str, EvaluationSet], module: ClipModule
) -> Callable[[ClipModule], None]:
    """Re-estimates batch statistics where that was asked for; says where it should have been."""
    from lightning_clip.merging.model_score import batch_norms, choose_set, recalibrate

    if arguments.recalibrate is not None:
        return partial(recalibrate, source=sets[choose_set(sets, arguments.recalibrate)].source)
    if layers := batch_norms(module):
        print(
            f"{len(layers)} layers of batch normalisation: averaged statistics are not those of averaged weights, "
            "--recalibrate SET re-estimates them"
        )
    return lambda module: None


def _alphas(text: str) -> list[float]:
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        low, high, step = (float(part) for part in text.split(":"))
        count = round((high - low) / step)
        return [round(low + number * step, 9) for number in range(count + 1)]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"--alpha {text!r} must be numbers such as 0.5, 0,0.5,1 or 0:1:0.1") from error


def _free(text: str) -> Path:
    output = Path(text).expanduser()
    if output.exists():
        raise InputError(f"--output {text!r} exists and is never replaced: remove it or give another name")
    if output.suffix != ".ckpt":
        raise InputError(f"--output {text!r} must end in .ckpt")
    return output
