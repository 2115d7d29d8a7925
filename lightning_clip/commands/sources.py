"""Arguments that several commands share: a source of pairs as in a recipe, a model, and where the work is done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.trust import typed

if TYPE_CHECKING:
    from lightning_clip.curation import Executor
    from lightning_clip.data.sources import PairSource

__all__ = [
    "add_executor_arguments",
    "add_model_argument",
    "add_source_arguments",
    "add_table_arguments",
    "add_workers_argument",
    "executor_of",
    "named_pictures",
    "open_source",
    "positive",
    "source_settings",
]


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --data and what tables and datasets need."""
    parser.add_argument("--data", required=True, help="shards, a table (jsonl, csv, tsv, parquet), a folder, or 'synthetic'")
    add_table_arguments(parser)


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what tables and datasets need."""
    parser.add_argument("--images", help="folder or tar of a table's images, if not beside the table")
    parser.add_argument("--image-column", help="column with the image's name or bytes (default: image; '' where there is none)")
    parser.add_argument(
        "--caption-column",
        help="column with the caption or captions, or several with commas (default: caption; '' where there is none)",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME[=COLUMN,...]",
        help="a further column, such as depth, or gps=lat,lon; may be repeated",
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="only rows that have this value; may be repeated"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting of the source, such as split=train"
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, of any model that `open_predictor` opens."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="MODEL",
        help="a .ckpt, open_clip:NAME/TAG_OR_FILE, hf:NAME_OR_FOLDER or a folder",
    )


def named_pictures(paths: Sequence[str], doing: str) -> dict[str, Path]:
    """Name without ending, under which what is made of a picture is written -> its file.

    Args:
        paths: files, which must be there.
        doing: what the command does to them, as the error says it.

    Raises:
        InputError: two pictures of one name, or a file that is not there.
    """
    stems = [Path(path).stem for path in paths]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(f"two pictures are called {twice!r}: {doing} into folders of their own")
    return {stem: existing_path(path, "image") for stem, path in zip(stems, paths, strict=True)}


def add_executor_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --workers and --ray."""
    add_workers_argument(parser)
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help='work on a Ray cluster, such as "auto" for the running one; without an address, one is started here',
    )


def executor_of(arguments: argparse.Namespace) -> Executor:
    """Where the work of a command is done, by --workers and --ray."""
    from lightning_clip.curation import OnRay, Processes

    workers = arguments.workers
    return Processes(workers) if arguments.ray is None else OnRay(arguments.ray or None, workers if workers > 1 else None)


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --workers."""
    parser.add_argument("--workers", type=positive, default=1, help="processes (default: %(default)s)")


def open_source(arguments: argparse.Namespace) -> PairSource:
    """Opens what the arguments name.

    Raises:
        InputError: the source does not open, or table arguments were given for something else.
    """
    from lightning_clip.data import pair_sources  # here: --help must not wait for torch

    with typed():  # a command in --data "pipe:..." is the user's own
        return pair_sources.build(source_settings(arguments))


def source_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arguments name, as a recipe would have it."""
    settings: dict[str, Any] = {
        key: value or None
        for key in ("images", "image_column", "caption_column")
        if (value := getattr(arguments, key)) is not None
    }
    if "," in (settings.get("caption_column") or ""):
        settings["caption_column"] = settings["caption_column"].split(",")
    if arguments.column:
        settings["columns"] = dict(map(_column, arguments.column))
    settings.update({key: _value(text) for key, text in _assignments(arguments.set, "--set").items()})
    if where := _assignments(arguments.where, "--where"):
        settings["where"] = where
    return {"name": arguments.data, **settings}


def _column(text: str) -> tuple[str, str | list[str]]:
    """A name alone is its own column; NAME=COLUMN takes another, and several with commas are stacked."""
    name, sign, columns = text.partition("=")
    return name, name if not sign else columns.split(",") if "," in columns else columns


def _assignments(given: list[str], flag: str) -> dict[str, str]:
    found = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"{flag} {text!r} must be {'COLUMN' if flag == '--where' else 'KEY'}=VALUE, such as split=train")
        found[key] = value
    return found


def _value(text: str) -> Any:
    """A setting's value as a recipe would have it: numbers, true, null, lists, mappings, quoted text; all else is text."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    quoted = isinstance(value, str) and text[0] in "\"'"
    return value if value is None or quoted or isinstance(value, int | float | list | dict) else text


def positive(text: str) -> int:
    """A number of an option that is at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(text)
