"""A check, before a run begins, that a source has the columns that towers read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair, Skipped
from lightning_clip.data.batches import PreparedPair, PreparedPairs, look_up
from lightning_clip.data.boxes import BOXES
from lightning_clip.data.columns import Collate, columns_of, is_view, no_column, view_names
from lightning_clip.data.sampler import Visit
from lightning_clip.data.sources import PairSource

__all__ = ["check_columns", "without_missing_views"]

_TRIES = 8  # samples that may be unreadable before the question is left to the run itself


def check_columns(dataset: PreparedPairs) -> None:
    """Prepares the first readable sample of a source, and of each source of a mix.

    Args:
        dataset: what a loader will read; nothing of it changes.

    Raises:
        InputError: a column that is read and that the sample has no value for.
    """
    source = dataset.source
    probe = copy.copy(dataset)
    if not getattr(source, "random_access", True):
        probe.source = copy.copy(source)  # a stream that is opened here is not the one that the run reads on
    places: Sequence[int] = source.first_of_parts() if isinstance(source, PairSource) else [0]
    for part, place in enumerate(places):
        for number in range(place, min(place + _TRIES, len(source))):
            sample = probe[Visit(0, number)]
            missing = _missing(dataset, sample)
            if missing is not None:
                which = f"source {part + 1} of {len(places)} has no" if len(places) > 1 else "no source has a"
                raise InputError(f"{which} column {missing!r}, {_remedy(missing, look_up(probe.source, Visit(0, number)))}")
            if isinstance(sample, PreparedPair):
                break


def without_missing_views(columns: Mapping[str, Collate | None], transform: nn.Module) -> dict[str, Collate | None]:
    """Columns without the further views that a transform does not make, as that of evaluation, which looks once.

    Args:
        columns: what the towers read.
        transform: uint8 (3, H, W) -> an image, or a tuple of views.
    """
    if not any(map(is_view, columns)):
        return dict(columns)
    made = transform(torch.zeros(3, 64, 64, dtype=torch.uint8))
    views = view_names(len(made) - 1 if isinstance(made, tuple | list) else 0)
    return {name: collate for name, collate in columns.items() if name in views or not is_view(name)}


def _missing(dataset: PreparedPairs, sample: PreparedPair | Skipped) -> str | None:
    """The column for whose absence a sample was skipped."""
    if isinstance(sample, PreparedPair):
        return None
    return next((name for name in dataset.columns if sample.reason == no_column(name)), None)


def _remedy(name: str, pair: Pair) -> str:
    """What there is instead, and what would give the column."""
    there = f"which a tower reads (there is {', '.join(map(repr, columns_of(pair))) or 'nothing'})"
    if name == "image":
        return f"{there}: give the source its images, or omit the image tower"
    if name == BOXES:
        return (
            f"which the objective learns from (there is {', '.join(map(repr, columns_of(pair))) or 'nothing'}): give a source "
            "with boxes, such as {name: objects, boxes: true} or {name: coco, path: FOLDER}"
        )
    if is_view(name):
        views = f"{{image: {{transform: {{views: {name.removeprefix('view')}}}}}}}"
        return f"{there}: give towers: {views}, or let image_transform() return that many images"
    return (
        f"{there}: give the source one, such as columns={{{name!r}: ...}} of a table or a shard's member KEY.{name}.npy, or "
        "let the tower read another column"
    )
