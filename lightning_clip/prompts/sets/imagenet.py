"""ImageNet and its shifts: V2, R, A, Sketch and ObjectNet, each with the places of its classes among ImageNet's 1,000."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.types import Pair
from lightning_clip.data.decoding import decode
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.foldered import files_of_folders, first_folder
from lightning_clip.prompts.sets.imagenet_classes import imagenet_words, parents_of, synsets
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.templates import templates

__all__ = ["Unframed"]


class Unframed(PairSource):
    """Another source's pictures without the red frame of one pixel that ObjectNet's have, which its authors ask to remove.

    Args:
        source: with the frame.
    """

    def __init__(self, source: PairSource) -> None:
        self.source, self.class_names = source, source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        pair = self.source[index]
        pixels = decode(pair.image)  # type: ignore[arg-type]
        return Pair(pixels[:, 1:-1, 1:-1].contiguous(), (), pair.key, pair.label)  # (3, H, W) -> (3, H - 2, W - 2)

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


def _by_synset(name: str, path: Path) -> PairSource:
    """Pictures in folders that are named by WordNet's ids."""
    numbers = {synset: number for number, synset in enumerate(synsets(name))}
    return files_of_folders(path, numbers, _words(name), f"is no class of {name}, whose folders are named like n01440764")


def _words(name: str) -> list[str]:
    parents = parents_of(name, len(synsets(name)))
    return imagenet_words([places[0] for places in parents] if parents else range(len(synsets(name))))


def _imagenet(place: Path) -> EvaluationSet:
    """val/n01440764/*.JPEG, and train/ likewise."""
    test = _by_synset("imagenet", first_folder(place, "val", "validation", "test"))
    train = LazySource(partial(_by_synset, "imagenet", place / "train"))
    return EvaluationSet(test, _words("imagenet"), templates("imagenet"), train)


def _shifted(name: str, place: Path) -> EvaluationSet:
    """n01440764/*.jpg."""
    parents = parents_of(name, len(synsets(name)))
    return EvaluationSet(_by_synset(name, place), _words(name), templates("imagenet"), parents=parents)


def _imagenet_v2(place: Path) -> EvaluationSet:
    """0/*.jpeg to 999/*.jpeg."""
    many = len(synsets("imagenet"))
    numbers = {str(number): number for number in range(many)}
    source = files_of_folders(place, numbers, _words("imagenet"), "is no number below 1000, as ImageNet-V2's folders are named")
    return EvaluationSet(source, _words("imagenet"), templates("imagenet"), parents=parents_of("imagenet_v2", many))


def _objectnet(place: Path) -> EvaluationSet:
    """images/FOLDER/*.png and mappings/*: the 113 classes that ImageNet has as well."""
    mappings = first_folder(place, "mappings", "../mappings")
    folders = {label: folder for folder, label in _json(mappings / "folder_to_objectnet_label.json").items()}
    # A line of imagenet_to_label_2012_v2 is a class in the order of ids, which pytorch_to_imagenet_2012_id.json numbers anew.
    number = {own: int(place) for place, own in _json(mappings / "pytorch_to_imagenet_2012_id.json").items()}
    lines = existing_path(mappings / "imagenet_to_label_2012_v2", "list of classes").read_text("utf-8").splitlines()
    numbered = {line.strip(): number[row] for row, line in enumerate(lines) if row in number}
    shared = _json(mappings / "objectnet_to_imagenet_1k.json")
    labels = sorted(shared, key=lambda label: folders[label])
    numbers = {folders[label]: place for place, label in enumerate(labels)}
    names = [label.lower() for label in labels]
    source = Unframed(files_of_folders(first_folder(place, "images", "objectnet-1.0/images"), numbers, names))
    parents = [[numbered[word] for word in shared[label].split("; ")] for label in labels]
    return EvaluationSet(source, names, templates("imagenet"), parents=parents)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(existing_path(path, "mapping of ObjectNet").read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no JSON ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} is no mapping: copy it again")
    return content


register("imagenet", _imagenet)
register("imagenet_v2", _imagenet_v2)
register("objectnet", _objectnet)
for _name in ("imagenet_a", "imagenet_r", "imagenet_sketch"):
    register(_name, partial(_shifted, _name))
