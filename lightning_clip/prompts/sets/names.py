"""Class names of well-known sets, in the order of their labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.prompts.sets.paper_words import paper_class_names

__all__ = ["CLASS_NAME_SETS", "ClassNames", "class_names"]

ClassNames = list[str | list[str]]

_DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
_FASHION = (
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

# Sets whose files have numbers for classes, or codes, and names of the paper in the order of these.
_NUMBERED = ("eurosat", "fer2013", "flowers102", "gtsrb", "mnist", "pcam", "rendered_sst2", "stl10")


def _imagenet() -> ClassNames:
    from open_clip import IMAGENET_CLASSNAMES  # here: importing open_clip is slow

    return list(IMAGENET_CLASSNAMES)


# A set of your own: CLASS_NAME_SETS["pond"] = lambda: ["frog", ["heron", "egret"]]
CLASS_NAME_SETS: dict[str, Callable[[], ClassNames]] = {
    "fashion_mnist": lambda: list(_FASHION),
    "imagenet": _imagenet,
    "svhn": lambda: list(_DIGITS),
    **{name: partial(paper_class_names, name) for name in _NUMBERED},
}


def class_names(name: str) -> ClassNames:
    """Class names that are written down, in the order of the labels.

    They are OpenAI's (https://github.com/openai/CLIP/blob/main/data/prompts.md), those of "imagenet" as open_clip ships them;
    those of "fashion_mnist" and "svhn" are this library's. A class with several words has a list of them.

    Args:
        name: a key of `CLASS_NAME_SETS`.

    Raises:
        InputError: no such set; the message lists the known ones and the nearest.

    Examples:
        >>> class_names("eurosat")[:2]
        ['annual crop land', 'forest']
    """
    if name not in CLASS_NAME_SETS:
        raise InputError(f"unknown class names {name!r}: {nearest(name, CLASS_NAME_SETS)}. Or give a list of names.")
    return CLASS_NAME_SETS[name]()
