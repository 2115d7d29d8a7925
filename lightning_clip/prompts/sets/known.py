"""Sets by name, and how one is opened: its shards if they are there, else its own files, else the hub if it may download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import yaml

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets.clip_benchmark import clip_benchmark
from lightning_clip.prompts.sets.imagenet_classes import parents_of
from lightning_clip.prompts.sets.roots import datasets_folder
from lightning_clip.prompts.sets.user_files import chosen_prompts

__all__ = ["KnownSet", "known_sets", "open_known", "opener_of", "register", "register_opened"]

_HUB = "https://huggingface.co/datasets/clip-benchmark/{shards}/resolve/main"
Reader = Callable[[Path], EvaluationSet]  # the folder of a set's own files -> the set
Opener = Callable[[Path, bool], "EvaluationSet | None"]  # root, whether it may fetch -> the set, None where it is not there


@dataclass(frozen=True)
class KnownSet:
    """What is known of a set without its files.

    Args:
        title: as people call it.
        images: of the test split.
        classes: 0 where there are captions.
        files: where they are below the root; "" where shards alone are read.
        shards: its name among CLIP_benchmark's; "" where it is not one of them.
    """

    title: str
    images: int
    classes: int = 0
    files: str = ""
    shards: str = ""

    def folder_of_shards(self, root: Path, name: str) -> Path | None:
        """The folder in CLIP_benchmark's layout below a root, under its own name or CLIP_benchmark's; None if there is none.

        Args:
            root: of all sets.
            name: of this one.
        """
        folders = [root / folder for folder in (self.shards, name, f"wds_{name}") if folder]
        return next((place for place in folders if any((place / "test").glob("[0-9]*.tar"))), None)

    @property
    def url(self) -> str:
        """Address of the shards on the hub, "" where there are none."""
        return _HUB.format(shards=self.shards) if self.shards else ""


@cache
def known_sets() -> dict[str, KnownSet]:
    """Name -> what is known of it, in alphabetical order."""
    rows = yaml.safe_load((files("lightning_clip.prompts.sets") / "known.yaml").read_text("utf-8"))
    return {name: KnownSet(**row) for name, row in rows.items()}


def register(name: str, reader: Reader | None = None) -> None:
    """Registers a set.

    Args:
        name: in `known_sets()`.
        reader: the folder of the set's own files -> the set; None where it is read from shards alone.
    """
    register_opened(name, opener_of(name, reader))


def opener_of(name: str, reader: Reader | None) -> Opener:
    """What opens a set by its own files, where they are there.

    Args:
        name: in `known_sets()`.
        reader: as for `register`.
    """

    def opened(root: Path, download: bool) -> EvaluationSet | None:
        place = root / known_sets()[name].files
        return reader(place) if reader is not None and place.exists() else None

    return opened


def register_opened(name: str, opener: Opener) -> None:
    """Registers a set that another library opens, and may fetch.

    Args:
        name: in `known_sets()`.
        opener: says whether it is there.
    """
    evaluation_sets.register(name)(partial(open_known, name, opener))


def open_known(
    name: str,
    opener: Opener,
    root: str | None = None,
    download: bool = False,
    templates: str | Sequence[str] | None = None,
    prompts: str | None = None,
) -> EvaluationSet:
    """A set from its shards, from its own files, or from the hub.

    Args:
        name: in `known_sets()`.
        opener: of its own files.
        root: of all sets; None for `datasets_folder()`.
        download: fetches what is missing, from where its opener does, or else the hub's shards, which the cache keeps.
        templates: in the place of the set's own.
        prompts: a file with class names and templates in the place of the set's own.

    Raises:
        InputError: it is nowhere, or its files are not whole.
    """
    folder, known = Path(root).expanduser() if root is not None else datasets_folder(), known_sets()[name]
    if (found := _opened_shards(name, folder, templates, prompts)) is not None:
        return found
    if (found := opener(folder, download)) is not None:
        names, sentences = chosen_prompts(list(found.class_names), found.templates, prompts, templates)  # type: ignore[arg-type]
        return replace(found, class_names=names, templates=sentences)
    if download and known.url:
        return _placed(name, clip_benchmark(known.url, templates=templates, prompts=prompts))
    places = " or ".join(repr(str(folder / place)) for place in (known.files, known.shards) if place)
    remedy = "set download=true, or put it there" if known.url else "put it there: it cannot be downloaded by name"
    raise InputError(f"{name!r} is not in {places}: {remedy}")


def _opened_shards(
    name: str, root: Path, templates: str | Sequence[str] | None = None, prompts: str | None = None
) -> EvaluationSet | None:
    """A set in CLIP_benchmark's layout below a root; None where it is not there.

    Args:
        name: in `known_sets()`.
        root: of all sets.
        templates: in the place of the set's own.
        prompts: a file with class names and templates in the place of the set's own.
    """
    place = known_sets()[name].folder_of_shards(root, name)
    return None if place is None else _placed(name, clip_benchmark(str(place), templates=templates, prompts=prompts))


def _placed(name: str, found: EvaluationSet) -> EvaluationSet:
    """A set with what ties its classes to ImageNet's, where something does."""
    return replace(found, parents=parents_of(name, len(found.class_names)))
