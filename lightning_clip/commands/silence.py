"""`lightning-clip silence`: a checkpoint in which attention heads that read are silent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.locks import only_writer
from lightning_clip.core.settings import in_range

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.applications.typography import ReadingHeads
    from lightning_clip.data.pixel_values import PixelReading
    from lightning_clip.data.sources import PairSource
    from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["add_arguments", "run"]

_SPLITS = ("val", "train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("checkpoint", metavar="MODEL", help="a .ckpt, open_clip:NAME/WEIGHTS, hf:NAME_OR_FOLDER or a folder")
    parser.add_argument("--suite", help="YAML file with a labelled set on which heads are found, as for evaluate, or limits")
    parser.add_argument("--set", help="name of the set in the suite; needed if there are several")
    parser.add_argument("--split", choices=_SPLITS, help="pictures to find heads on (default: val, or else train)")
    parser.add_argument("--target", metavar="WORD", help="the class whose word is pasted (default: another for each picture)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="share of pictures without words that may be named wrong in addition (default: %(default)s)",
    )
    parser.add_argument("--patience", type=int, default=10, help="heads that do not help before the end (default: %(default)s)")
    parser.add_argument("--ablation", default="zero", help="what a silent head writes: zero or mean (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=500, help="pictures at most (default: %(default)s)")
    parser.add_argument(
        "--heads", nargs="+", metavar="BLOCK.HEAD", help="silence these, counted from 0, and look for none; they write zeros"
    )
    parser.add_argument("--output", required=True, metavar="FILE.ckpt", help="to create; an existing one is never replaced")


def run(arguments: argparse.Namespace) -> None:
    """Finds heads that read, prints them, writes the model with these silent.

    Raises:
        InputError: a model without such heads, a wrong set or setting, an output that exists, or no head that helps.
    """
    output = Path(arguments.output).expanduser()
    in_range("--limit", arguments.limit, 1, whole=True)
    if (arguments.suite is None) == (arguments.heads is None):
        raise InputError("silence needs a set on which heads are found (--suite), or the heads (--heads): give one of them")
    _check_new(output)
    with only_writer(output, "--output"):
        _check_new(output)
        _silence(arguments, output)


def _silence(arguments: argparse.Namespace, output: Path) -> None:
    from lightning_clip import ClipModule
    from lightning_clip.applications.typography import silenced_model
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.encoders.silenced import head_sizes, view_with_heads
    from lightning_clip.loading import open_for_use
    from lightning_clip.merging.merged import whole
    from lightning_clip.merging.mixing import write_checkpoint

    quiet()
    model: Any = whole(open_for_use(arguments.checkpoint))
    view_with_heads(model.model.tower("image"))  # before any picture is read
    if arguments.heads is not None:
        silent = silenced_model(model, _given(arguments.heads))
    else:
        found = _found(model, arguments)
        silent = silenced_model(model, found.heads, found.written)
    module = ClipModule(**silent.to_mapping())
    module.configure_model()
    module.load_state_dict(silent.state_dict())
    write_checkpoint(module, output)
    tower: Any = silent.model.tower("image")
    count = sum(head_sizes(block)[0] for block in view_with_heads(tower).blocks)
    print(f"wrote {output}: {len(tower.heads)} of {count} heads silent")


def _found(model: Any, arguments: argparse.Namespace) -> ReadingHeads:
    """Heads that read, printed.

    Raises:
        InputError: none of them helps.
    """
    from lightning_clip.applications.typography import Attack, find_reading_heads
    from lightning_clip.data.image_steps import reading_of

    dataset, source = _labelled(arguments)
    images, labels = _pictures(source, arguments.limit, reading_of(model.predictor.transform))
    found = find_reading_heads(
        model.predictor,
        images,
        labels,
        Attack(dataset.names, arguments.target),
        list(dataset.templates),
        tolerance=arguments.tolerance,
        patience=arguments.patience,
        ablation=arguments.ablation,
    )
    _print(found, len(images))
    if not found.heads:
        raise InputError(
            f"no head of {arguments.checkpoint} helps within --tolerance {arguments.tolerance:g}: nothing was written. Allow "
            "more, or the model does not read"
        )
    return found


def _given(heads: list[str]) -> list[tuple[int, int]]:
    """Heads as they are typed."""
    try:
        return [(int(block), int(head)) for block, head in (text.split(".") for text in heads)]
    except ValueError as error:
        raise InputError(f"--heads {' '.join(heads)!r} must be numbers of blocks and heads, such as 10.3 11.0") from error


def _labelled(arguments: argparse.Namespace) -> tuple[EvaluationSet, PairSource]:
    """The set, and the split on which heads are found."""
    from lightning_clip.evaluation.suite import Suite
    from lightning_clip.prompts.evaluation_sets import open_evaluation_set

    suite = Suite.read(arguments.suite)
    name = arguments.set or next(iter(suite.sets))
    if name not in suite.sets or (len(suite.sets) > 1 and not arguments.set):
        known = nearest(name, suite.sets) if arguments.set else f"choose by --set: {', '.join(suite.sets)}"
        raise InputError(f"suite {arguments.suite!r} has {len(suite.sets)} sets, --set is {arguments.set!r}: {known}")
    dataset = open_evaluation_set({key: value for key, value in suite.sets[name].items() if key != "protocols"})
    if not dataset.class_names or dataset.multilabel:
        raise InputError(f"heads are found on sets with one class an image, which {name!r} is not: take another set")
    splits = {"val": dataset.val, "train": dataset.train, "test": dataset.source}
    split = arguments.split or next((known for known in ("val", "train") if splits[known] is not None), None)
    source = None if split is None else splits[split]
    if source is None:
        raise InputError(
            f"set {name!r} has no {split or 'val and no train'} split to find heads on: give one, or --split test, whose "
            "figures then say nothing"
        )
    return dataset, source


def _pictures(source: PairSource, limit: int, reading: PixelReading) -> tuple[list[Tensor], list[int]]:
    """The first pictures of a split, with their classes."""
    from lightning_clip.data.decoding import decode

    images, labels = [], []
    for place in range(min(limit, len(source))):
        pair = source[place]
        if pair.label is None or pair.image is None:
            raise InputError(f"{source.place(place)} has no class or no image: heads are found on labelled pictures")
        try:
            images.append(decode(pair.image, reading))
        except (OSError, ValueError) as error:
            raise InputError(f"{source.place(place)} cannot be read ({error}): mend the file") from error
        labels.append(pair.label)
    return images, labels


def _print(found: ReadingHeads, pictures: int) -> None:
    """Heads that were tried, and accuracies before and after."""
    from rich.table import Table

    from lightning_clip.reporting.terminal import PlainConsole

    table = Table("block", "head", "looks at words, %", "no word, %", "another class's word, %", "")
    table.add_row("none", "", f"{100 * found.even:.1f} if even", f"{100 * found.clean:.1f}", f"{100 * found.attacked:.1f}", "")
    for step in found.steps:
        shares = (f"{100 * value:.1f}" for value in (step.score, step.clean, step.attacked))
        table.add_row(str(step.block), str(step.head), *shares, "silent" if step.silent else "")
    PlainConsole().print(table)
    clean, attacked = found.after
    print(
        f"{pictures} pictures: {100 * found.attacked:.1f} -> {100 * attacked:.1f} % named right with another class's word, "
        f"{100 * found.clean:.1f} -> {100 * clean:.1f} % without"
    )


def _check_new(output: Path) -> None:
    if output.exists():
        raise InputError(f"--output {str(output)!r} exists and is never replaced: remove it or give another name")
    if output.suffix != ".ckpt":
        raise InputError(f"--output {str(output)!r} must end in .ckpt")
    if not output.parent.is_dir():
        raise InputError(f"--output {str(output)!r}: there is no folder {str(output.parent)!r}, make it first")
