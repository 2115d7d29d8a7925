"""`lightning-clip classify`: probabilities of labels for pictures."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_clip.commands.labels import add_label_arguments, check_several, labels_of
from lightning_clip.commands.pictures import PICTURE_HELP, GivenPicture, decoded, given_pictures
from lightning_clip.commands.sources import add_model_argument, positive
from lightning_clip.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.data.pixel_values import PixelReading

__all__ = ["add_arguments", "run"]

_AT_ONCE = 32
_SHOWN = 10  # labels of a picture in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=PICTURE_HELP)
    add_label_arguments(parser, "class names", "cat,dog,bird")
    add_model_argument(parser)
    parser.add_argument(
        "--templates",
        action="append",
        help='prompt with {} for the label, or the name of a set ("simple", "imagenet"); may be repeated (default: simple)',
    )
    parser.add_argument(
        "--softmax",
        action="store_true",
        help="probabilities that add to 100 %% over the labels, also by a model of the sigmoid loss (SigLIP), which gives each "
        "label its own",
    )
    parser.add_argument("--top", type=positive, metavar="K", help=f"most probable labels of each picture (default: {_SHOWN})")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one line of JSON a picture, with all labels unless --top is given")
    form.add_argument("--csv", action="store_true", help="image, label and probability with commas between, likewise")


class _Found(NamedTuple):
    """A picture with labels and their probabilities, best first."""

    picture: GivenPicture
    labels: list[str]
    probabilities: list[float]


def run(arguments: argparse.Namespace) -> None:
    """Prints the probability of each label for each picture, best first.

    Raises:
        InputError: a missing file, a picture that does not decode, fewer than two labels where they compete or one twice, a
            wrong checkpoint, or weights that are not finite.
    """
    from lightning_clip.data.image_steps import reading_of  # here and below: --help must not wait for torch
    from lightning_clip.loading import open_predictor
    from lightning_clip.model.probabilities import is_independent, probabilities
    from lightning_clip.prompts import resolve_templates

    labels = labels_of(arguments)
    given = arguments.templates or ["simple"]
    templates = resolve_templates(given[0] if len(given) == 1 else given)
    pictures = _pictures(arguments.images)
    predictor = open_predictor(arguments.checkpoint)
    if arguments.softmax or not is_independent(predictor):
        check_several(labels)
    score = probabilities(predictor, labels, templates, compete=arguments.softmax or None)
    top = arguments.top or (len(labels) if arguments.json or arguments.csv else _SHOWN)
    found = (
        _best(picture, row, labels, top)
        for part in _parts(_readable(pictures, reading_of(predictor.transform)))
        for (picture, _), row in zip(part, score([pixels for _, pixels in part]), strict=True)
    )
    if arguments.json:
        _print_json(found)
    elif arguments.csv:
        _print_csv(found)
    else:
        _print_table(found)


def _pictures(given: list[str]) -> list[GivenPicture]:
    try:
        return given_pictures(given)
    except InputError as error:
        words = [text for text in given if not {".", "/"} & set(text) and not Path(text).exists()]
        if not words:
            raise
        hint = f'If {words[0]!r} belongs to a label, put the labels in quotes: --labels "a dog,a cat"'
        raise InputError(f"{error}. {hint}") from error


def _readable(pictures: Iterable[GivenPicture], reading: PixelReading) -> Iterator[tuple[GivenPicture, Tensor]]:
    """Pictures with their pixels (3, H, W); of a folder or a pattern those that cannot be read are named and left out."""
    count, skipped = 0, ""
    for picture in pictures:
        try:
            pixels = decoded(picture, reading)
        except InputError as error:
            if picture.is_named:
                raise
            skipped = str(error)
            print(f"skipped: {skipped}", file=sys.stderr)
            continue
        count += 1
        yield picture, pixels
    if not count:
        raise InputError(f"none of the pictures can be read; the last: {skipped}")


def _parts(items: Iterator[tuple[GivenPicture, Tensor]]) -> Iterator[list[tuple[GivenPicture, Tensor]]]:
    while part := list(islice(items, _AT_ONCE)):
        yield part


def _best(picture: GivenPicture, row: Tensor, labels: list[str], top: int) -> _Found:
    """The labels of a picture's row (C,) of probabilities, best first."""
    values, places = row.float().sort(descending=True, stable=True)
    return _Found(picture, [labels[place] for place in places[:top].tolist()], values[:top].tolist())


def _print_json(found: Iterable[_Found]) -> None:
    plain = sys.stdout.isatty() or not (sys.stdout.encoding or "").lower().startswith("utf")
    for picture, labels, values in found:
        shares = {label: round(value, 6) for label, value in zip(labels, values, strict=True)}
        line = json.dumps({"image": picture.place, "probabilities": shares}, ensure_ascii=plain)
        print(line, flush=True)  # as each is found: a folder may be large


def _print_csv(found: Iterable[_Found]) -> None:
    from lightning_clip.reporting.terminal import without_controls

    told = without_controls if sys.stdout.isatty() else str  # a file gets what there is, a terminal what it can show
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "label", "probability"])
    for picture, labels, values in found:
        rows = zip(labels, values, strict=True)
        writer.writerows([told(picture.place), told(label), f"{value:.6f}"] for label, value in rows)


def _print_table(found: Iterable[_Found]) -> None:
    from rich.table import Table

    from lightning_clip.reporting.terminal import PlainConsole

    table = Table()
    table.add_column("image")
    table.add_column("label")
    table.add_column("probability", justify="right")
    for picture, labels, values in found:
        for place, (label, value) in enumerate(zip(labels, values, strict=True)):
            style = "bold" if place == 0 else None
            table.add_row("" if place else picture.name, label, f"{100 * value:.1f} %", style=style)
        table.add_section()
    PlainConsole().print(table)
