"""CLIP_benchmark's WebDataset folders, or URLs of such, as evaluation sets.

FOLDER/
    classnames.txt                          one class a line
    zeroshot_classification_templates.txt   one template a line, with {c}
    dataset_type.txt                        "retrieval", "multilabel"; absent for one class an image
    test/nshards.txt, test/0.tar, ...       KEY.webp (png, jpg) with KEY.cls, KEY.txt (a caption a line) or KEY.npy (0 and 1)
    train/...

https://github.com/LAION-AI/CLIP_benchmark
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.secrets import checked_options
from lightning_clip.core.types import Pair
from lightning_clip.data.order import Order
from lightning_clip.data.shards import IMAGE_EXTENSIONS, TarReader, is_url
from lightning_clip.data.shards.addresses import check_nested, without_scheme
from lightning_clip.data.shards.remote import Remote
from lightning_clip.data.shards.remote_errors import RemoteError, remedy
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.user_files import chosen_prompts

__all__ = ["CaptionLines", "LabelVectors", "clip_benchmark"]

_TYPES = ("classification", "retrieval", "multilabel")


@evaluation_sets.register("clip_benchmark")
def clip_benchmark(
    path: str,
    split: str = "test",
    templates: str | Sequence[str] | None = None,
    prompts: str | None = None,
    cache_folder: str | None = None,
    cache_gigabytes: float = 100.0,
    storage_options: Mapping[str, Any] | None = None,
) -> EvaluationSet:
    """A set in CLIP_benchmark's layout.

    Args:
        path: the folder, or its URL (https, s3, gs, hf and what else fsspec knows).
        split: the one to evaluate on.
        templates: in the place of the folder's.
        prompts: a file with class names and templates in the place of the folder's.
        cache_folder: for remote shards; None for the user's cache folder.
        cache_gigabytes: most that remote shards may take there.
        storage_options: tokens and headers for a URL, as the source `shards` takes them.

    Raises:
        InputError: no such folder or split, no class names, a template without {c}, or an unknown type.
    """
    path = without_scheme(path)
    if not is_url(path):
        path = str(existing_path(path, "folder of CLIP_benchmark"))
    else:
        check_nested(path)
    folder = _Folder(path, Remote(storage_options=checked_options(storage_options)))
    kind = (folder.text("dataset_type.txt") or "classification").strip().lower()
    if kind not in _TYPES:
        raise InputError(f"dataset_type.txt of {path!r} is {kind!r}, which is not supported: known are {', '.join(_TYPES)}")
    cache = {"cache_folder": cache_folder, "cache_gigabytes": cache_gigabytes, "storage_options": storage_options}
    source = _split(folder, split, kind, cache)
    train = None
    if split != "train" and folder.shards("train"):
        train = LazySource(partial(_split, folder, "train", kind, cache))
    if kind == "retrieval":
        return EvaluationSet(source, [], chosen_prompts([], "plain", prompts, templates)[1], train)
    names, sentences = chosen_prompts(_class_names(folder), _templates(folder), prompts, templates)
    if not names:
        raise InputError(
            f"{path!r} has no classnames.txt: write one, a class a line in the order of the labels, or give prompts"
        )
    return EvaluationSet(source, names, sentences, train, multilabel=kind == "multilabel")


class CaptionLines(PairSource):
    """Another source whose captions are lines of one text.

    Args:
        source: such as shards whose .txt holds a caption a line.
    """

    def __init__(self, source: PairSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        pair = self.source[index]
        return replace(pair, captions=_lines(pair.captions), weights=None)

    def captions(self, index: int) -> tuple[str, ...]:
        """Lines of the text, without reading the image."""
        return _lines(self.source.captions(index))

    def order(self, seed: int) -> Order:
        """That of the source."""
        return self.source.order(seed)

    def lost(self) -> Mapping[str, int]:
        """Those of the source."""
        return self.source.lost()

    def fetch(self, shards: list[int]) -> None:
        """Handed on to the source."""
        self.source.fetch(shards)


class LabelVectors(PairSource):
    """Images with a vector of 0 and 1 over the classes; a pair's metadata has "labels", the places of the ones.

    Args:
        shards: local tars with KEY.webp (or another image format) and KEY.npy.

    Raises:
        InputError: no image with a vector in any of them.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self.shards = list(shards)
        self._samples: list[tuple[int, str, str]] = []  # shard, picture, vector
        for number, reader in enumerate(self._readers):
            members = set(reader.names())
            for name in reader.names():
                vector = str(PurePosixPath(name).with_suffix(".npy"))
                if PurePosixPath(name).suffix.lower().lstrip(".") in IMAGE_EXTENSIONS and vector in members:
                    self._samples.append((number, name, vector))
        if not self._samples:
            raise InputError(f"shards {self.shards[0]!r} ... hold no image with a .npy of its labels beside it")

    @cached_property
    def _readers(self) -> list[TarReader]:
        return [TarReader(existing_path(shard, "shard")) for shard in self.shards]

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_readers"}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Pair:
        shard, picture, vector = self._samples[index]
        ones = np.load(io.BytesIO(self._readers[shard].read(vector)), allow_pickle=False).reshape(-1)
        labels = np.flatnonzero(ones > 0).tolist()
        key = str(PurePosixPath(picture).with_suffix(""))
        return Pair(self._readers[shard].read(picture), (), key, metadata={"labels": labels})

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


@dataclass(frozen=True)
class _Folder:
    """Where a set is.

    Args:
        path: of a folder, or its URL.
        remote: by which a URL is read.
    """

    path: str
    remote: Remote

    def text(self, name: str) -> str | None:
        """A small file of the folder, or None where there is none."""
        place = f"{self.path.rstrip('/')}/{name}"
        try:
            found = self.remote.read(place) if is_url(place) else _bytes(Path(place))
        except RemoteError as error:
            raise InputError(f"{error}: {remedy(error)}") from error
        except OSError as error:
            raise InputError(f"{place!r} cannot be read ({error}): check the path") from error
        return None if found is None else found.decode("utf-8-sig", "replace")

    def shards(self, split: str) -> int:
        """How many shards a split has, 0 where there is none."""
        stated = self.text(f"{split}/nshards.txt")
        if stated is None:
            return len(list((Path(self.path) / split).glob("[0-9]*.tar"))) if not is_url(self.path) else 0
        if not stated.strip().isdigit() or int(stated) < 1:
            raise InputError(
                f"{split}/nshards.txt of {self.path!r} says {stated.strip()[:80]!r}, not a number of shards: mend it"
            )
        return int(stated)


def _split(folder: _Folder, split: str, kind: str, cache: Mapping[str, object]) -> PairSource:
    path, count = folder.path, folder.shards(split)
    if not count:
        raise InputError(
            f"{path!r} has no {split}/nshards.txt and no {split}/0.tar: check the path and the split "
            "(as CLIP_benchmark's clip_benchmark_export_wds writes them)"
        )
    place = f"{path.rstrip('/')}/{split}"
    if kind == "multilabel":
        if is_url(path):
            raise InputError(f"{path!r} has several labels an image: copy the folder to this machine, then name it there")
        return LabelVectors([f"{place}/{number}.tar" for number in range(count)])
    source = pair_sources.build(
        {"name": "shards", "path": f"{place}/{{0..{count - 1}}}.tar", **(cache if is_url(path) else {})}
    )
    return CaptionLines(source) if kind == "retrieval" else source


def _class_names(folder: _Folder) -> list[str]:
    names = [line.strip() for line in (folder.text("classnames.txt") or "").strip("\n\r").splitlines()]
    if "" in names:
        raise InputError(f"line {names.index('') + 1} of classnames.txt in {folder.path!r} is empty: give the class a name")
    return names


def _templates(folder: _Folder) -> str | list[str]:
    lines = [line.strip() for line in (folder.text("zeroshot_classification_templates.txt") or "").splitlines()]
    for line in lines:
        if line and "{c}" not in line and "{}" not in line:
            raise InputError(f"template {line!r} of {folder.path!r} has no {{c}} where the class name goes: add it")
    return [line.replace("{c}", "{}") for line in lines if line] or "simple"


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _lines(captions: Sequence[str]) -> tuple[str, ...]:
    return tuple(line.strip() for caption in captions for line in caption.splitlines() if line.strip())
