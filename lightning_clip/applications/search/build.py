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
        gone: that were taken out, or have another picture in their place.
        skipped: reason -> count of what cannot be read.
        examples: reason -> place of the first of these.
    """

    pictures: int = 0
    added: int = 0
    computed: int = 0
    unchanged: int = 0
    gone: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


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
    store: str | None = None,
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
        prune: take out pictures of this source that are not in it any more, or cannot be read any more.
        store: where the vectors are kept, NAME or NAME:ADDRESS of `vector_stores`; None is where they are, `files` at first.
        unit: pictures of a unit, at least 1.

    Raises:
        InputError: a source without pictures, an index of another model or store, or one that another process writes to.
    """
    place = Path(path).expanduser()
    predictor = model if isinstance(model, Predictor) else open_predictor(model)
    with only_writer(place, "--output"), SearchIndex.opened_for_writing(place, predictor, model, store) as index:
        known, named = index.entries.digests(), model if isinstance(model, str) else None
        looking = Looking(data, named, known, thumbnail=thumbnail, devices=devices, predictor=predictor)
        source = looking.opened()
        if not len(source):
            raise InputError(f"{_described(data, name)} holds no pictures")
        built = Built()
        number = index.entries.source(_described(data, name))
        print_of = fingerprint(len(source), source.place(0), source.place(len(source) - 1), unit)
        done = index.entries.begin_pass(number, print_of)
        index.entries.set_fact("building", {"source": number, "fingerprint": print_of, "unit": unit, "pictures": len(source)})
        missing = [at for at in range(-(-len(source) // unit)) if at not in done]
        for at, found in (executor or Processes())(looking, len(source), unit, "looking at pictures", missing):
            with index.adding():  # all that is known of the unit, and that it is done, in one step
                _take(index, number, found, built)
                index.entries.finish_unit(number, print_of, at)
        built.gone = index.entries.finish_pass(number, prune=prune)
        index.entries.set_fact("building", None)
        index.vectors.settle()
        built.pictures = index.pictures()
        if not built.pictures:
            reason, where = next(iter(built.examples.items()))
            raise InputError(f"no picture of {_described(data, name)} can be read: {reason} ({where})")
        return built


def _take(index: SearchIndex, source: int, unit: Sequence[Looked], built: Built) -> None:
    """Puts a unit into the index."""
    entries, vectors = index.entries, index.vectors
    rows: list[np.ndarray] = []
    for looked in unit:
        if looked.reason:
            built.skipped[looked.reason] += 1
            built.examples.setdefault(looked.reason, looked.place)
            continue
        if (known := entries.find(source, looked.key, looked.digest)) is not None:
            entries.meet(known, looked.row, looked.place, looked.captions)
            built.unchanged += 1
            continue
        width, height = looked.size
        thumbnail, row = looked.thumbnail, looked.features
        if row is None:  # the very picture under another name
            same = entries.known_as(looked.digest)
            assert same is not None
            [twin] = entries.get([same])
            row = rows[same - vectors.count] if same >= vectors.count else vectors.rows([same])[0].astype(np.float16)
            width, height, thumbnail = twin.width, twin.height, entries.thumbnail(same)
        else:
            built.computed += 1
        number = vectors.count + len(rows)
        named = looked.row, looked.key, looked.place, looked.captions
        entries.add(Entry(number, source, *named, width, height, looked.digest), thumbnail)
        rows.append(row)
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
