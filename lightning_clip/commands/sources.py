"""The arguments by which commands name a source of pairs, the same as in a recipe's `data` part."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lightning_clip.errors import InputError

if TYPE_CHECKING:
    from lightning_clip.data.sources import PairSource

__all__ = ["add_source_arguments", "open_source"]


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --data and what a table needs."""
    parser.add_argument("--data", required=True, help="shards, a table (jsonl, csv, tsv, parquet), a folder, or 'synthetic'")
    parser.add_argument("--images", help="folder or tar of a table's images, if not beside the table")
    parser.add_argument("--image-column", help="column with the image's name (default: image)")
    parser.add_argument("--caption-column", help="column with the caption or captions (default: caption)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="only rows that have this value; may be repeated"
    )


def open_source(arguments: argparse.Namespace) -> PairSource:
    """Opens what the arguments name.

    Raises:
        InputError: the source does not open, or table arguments were given for something else.
    """
    from lightning_clip.data import pair_sources  # here: --help must not wait for torch

    settings: dict[str, Any] = {
        key: value for key in ("images", "image_column", "caption_column") if (value := getattr(arguments, key)) is not None
    }
    where = {}
    for condition in arguments.where:
        column, sign, value = condition.partition("=")
        if not sign:
            raise InputError(f"--where {condition!r} must be COLUMN=VALUE, such as split=train")
        where[column] = value
    if where:
        settings["where"] = where
    return pair_sources.build({"name": arguments.data, **settings})
