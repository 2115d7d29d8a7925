"""ImageNet's classes by their WordNet ids, and which of them a shifted set has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from lightning_clip.prompts.sets.names import class_names

__all__ = ["imagenet_words", "parents_of", "synsets"]

_LISTS = {"imagenet": "imagenet", "imagenet_sketch": "imagenet", "imagenet_a": "imagenet_a", "imagenet_r": "imagenet_r"}


@cache
def synsets(name: str) -> tuple[str, ...]:
    """WordNet ids of a set's classes in the order of its labels, as timm ships them.

    Args:
        name: "imagenet", "imagenet_sketch", "imagenet_a" or "imagenet_r".

    Examples:
        >>> synsets("imagenet")[:2], len(synsets("imagenet_a"))
        (('n01440764', 'n01443537'), 200)
    """
    text = (files("timm.data") / f"_info/{_LISTS[name]}_synsets.txt").read_text("utf-8")
    return tuple(sorted(text.split()))


def parents_of(name: str, classes: int) -> list[list[int]] | None:
    """Places among ImageNet's 1,000 classes of each class of a set that has such, None for others.

    Args:
        name: of the set.
        classes: how many it has; another number than is known has no such places.
    """
    if name == "imagenet_v2" and classes == len(synsets("imagenet")):
        return [[place] for place in range(classes)]
    if name not in _LISTS or name == "imagenet" or classes != len(synsets(name)):
        return None
    place = {synset: number for number, synset in enumerate(synsets("imagenet"))}
    return [[place[synset]] for synset in synsets(name)]


def imagenet_words(places: Sequence[int]) -> list[str]:
    """OpenAI's words for some of ImageNet's classes.

    Args:
        places: among the 1,000.
    """
    words = class_names("imagenet")
    return [str(words[place]) for place in places]
