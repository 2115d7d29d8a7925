"""Building an index: a source and a model -> vectors and entries in a folder; interrupted or later builds go on with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.applications.search.entries import Entry
from lightning_clip.applications.search.index import SearchIndex
from lightning_clip.applications.search.looking import Looked, Looking
from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import only_writer
from lightning_clip.curation.executors import Executor, Processes
from lightning_clip.curation.image_stats import fingerprint
from lightning_clip.data.sources import PairSource
from lightning_clip.loading import open_predictor
from lightning_clip.model.predictor import Predictor

__all__ = ["Built", "build_index"]


@dataclass
class Built:
    """What a build did.

    Attributes:
        pictures: in the index afterwards.
        added: of them by this build.
        computed: of those whose features were computed; the others were known under another name.
        unchanged: that were there before.
        gone: that were taken out.
        skipped: reason -> count of what cannot be read.
        examples: (place, reason) of the first of these.
    """

    pictures: int = 0
    added: int = 0
    computed: int = 0
    unchanged: int = 0
    gone: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)


def build_index(
    path: str | Path,
    data: Any,
    model: str | Predictor,
    *,
    name: str | None = None,
    executor: Executor | None = None,
    thumbnail: int = 224,
    devices: Sequence[str] = (),
    prune: bool = False,
    graph_from: int = 100_000,
    unit: int = 512,
) -> Built:
    """Adds the pictures of a source to an index, which is made where there is none.

    A picture whose very bytes the index knows is not computed again, whatever it is called; one that has changed under its
    name takes the old one's place. Each unit of pictures is in the index once it is done: a killed build goes on behind it.

    Args:
        path: folder of the index.
        data: a path, a mapping or a source of pairs; captions are kept for the search by words.
        model: what `open_predictor` opens, which the index remembers, or a `Predictor`.
        name: what the source is called in the index; needed for an object, so that a later build knows it again.
        executor: where the work is done; None takes this process.
        thumbnail: longer side of the small pictures in pixels; 0 makes none.
        devices: such as ("cuda:0", "cuda:1"); empty computes on the CPU.
        prune: take out pictures of this source that are not in it any more.
        graph_from: rows that are searched exactly before a graph takes them up.
        unit: pictures of a unit, at least 1.

    Raises:
        InputError: a source without pictures, an index of another model, or one that another process writes to.
    """
    place = Path(path).expanduser()
    predictor = model if isinstance(model, Predictor) else open_predictor(model)
    with only_writer(place, "--output"), SearchIndex.opened_for_writing(place, predictor, model) as index:
        known, named = index.entries.digests(), model if isinstance(model, str) else None
        looking = Looking(data, named, known, thumbnail=thumbnail, devices=devices, predictor=predictor)
        source = looking.opened()
        if not len(source):
            raise InputError(f"{_described(data, name)} holds no pictures")
        built = Built()
        number = index.entries.source(_described(data, name))
        print_of = fingerprint(len(source), source.place(0), source.place(len(source) - 1), unit)
        done = index.entries.finished_units(number, print_of)
        missing = [at for at in range(-(-len(source) // unit)) if at not in done]
        names: set[str] = set()
        for at, found in (executor or Processes())(looking, len(source), unit, "looking at pictures", missing):
            names |= {looked.key for looked in found}
            _take(index, number, found, built)
            with index.entries.transaction():
                index.entries.finish_unit(number, print_of, at)
        with index.entries.transaction():
            index.entries.forget_units(number)
            if prune and not done:
                built.gone = index.entries.prune(number, names)
        if index.vectors.in_tail >= max(graph_from, index.vectors.in_graph // 10):
            index.vectors.grow_graph()
        built.pictures = index.pictures()
        if not built.pictures:
            first = f": {built.examples[0][1]} ({built.examples[0][0]})" if built.examples else ""
            raise InputError(f"no picture of {_described(data, name)} can be read{first}")
        return built


def _take(index: SearchIndex, source: int, unit: Sequence[Looked], built: Built) -> None:
    """Puts a unit into the index: first its vectors, then, in one step, all that is known of them."""
    entries, vectors = index.entries, index.vectors
    rows: list[np.ndarray] = []
    with index.adding():
        for looked in unit:
            if looked.reason:
                built.skipped[looked.reason] += 1
                built.examples = [*built.examples, (looked.place, looked.reason)][:20]
                continue
            known = entries.find(source, looked.key)
            if known is not None and known[1] == looked.digest:
                entries.move(known[0], looked.row, looked.place)
                built.unchanged += 1
                continue
            entry = Entry(
                vectors.count + len(rows), source, looked.row, looked.key, looked.place, looked.captions, *looked.size,
                looked.digest,
            )  # fmt: skip
            thumbnail = looked.thumbnail
            if looked.features is None:  # the very picture under another name
                same = entries.known_as(looked.digest)
                assert same is not None
                [twin] = entries.get([same])
                row = rows[same - vectors.count] if same >= vectors.count else vectors.rows([same])[0].astype(np.float16)
                entry, thumbnail = entry._replace(width=twin.width, height=twin.height), entries.thumbnail(same)
            else:
                row = looked.features
                built.computed += 1
            rows.append(row)
            entries.add(entry, thumbnail)
            built.added += 1
        if rows:
            vectors.append(np.stack(rows))  # (n, D)


def _described(data: Any, name: str | None) -> str:
    """What tells a source from another."""
    if name is not None:
        return name
    if isinstance(data, PairSource):
        return type(data).__name__
    return str(data) if isinstance(data, str | Path) else json.dumps(data, sort_keys=True, default=str)
