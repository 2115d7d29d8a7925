"""Class names and templates of Radford et al. 2021 by the name of a set, from OpenAI's published list (MIT)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["PAPER_SETS", "in_the_papers_words", "paper_class_names", "paper_templates"]


@cache
def _sets() -> dict[str, dict[str, Any]]:
    content = json.loads((files("lightning_clip.prompts.sets") / "openai_prompts.json").read_text("utf-8"))
    sets: dict[str, dict[str, Any]] = content["sets"]
    return sets


PAPER_SETS: tuple[str, ...] = tuple(_sets())

# Folders of Caltech-101 which the paper calls by other words.
_OTHER_WORDS = {
    "caltech101": {
        "Faces": "off-center face",
        "Faces_easy": "centered face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
        "car_side": "side of a car",
        "cougar_body": "body of a cougar cat",
        "cougar_face": "face of a cougar cat",
        "crocodile_head": "head of a crocodile",
        "flamingo_head": "head of a flamingo",
    }
}


def paper_class_names(name: str) -> list[str | list[str]]:
    """Class names of a set in the order of its labels; those of a class with several words are a list.

    Args:
        name: in `PAPER_SETS`.

    Examples:
        >>> paper_class_names("fer2013")[3]
        ['happy', 'smiling']
    """
    return list(_sets()[name]["class_names"])


def paper_templates(name: str) -> tuple[str, ...]:
    """Templates of a set, each with {}.

    Args:
        name: in `PAPER_SETS`.

    Examples:
        >>> paper_templates("food101")
        ('a photo of {}, a type of food.',)
    """
    return tuple(_sets()[name]["templates"])


def in_the_papers_words(name: str, own: Iterable[str]) -> list[str]:
    """A set's own class names as the paper writes them; a class that the paper lacks keeps its name, with spaces.

    Names are matched by their letters and digits alone, so that the order of the classes does not matter.

    Args:
        name: in `PAPER_SETS`.
        own: as the folders or files of the set have them.

    Examples:
        >>> in_the_papers_words("sun397", ["apartment_building/outdoor", "abbey"])
        ['apartment building outdoor', 'abbey']
    """
    words = {_letters(word): word for word in _sets()[name]["class_names"] if isinstance(word, str)}
    other = _OTHER_WORDS.get(name, {})
    return [other.get(given) or words.get(_letters(given)) or plain(given) for given in own]


def plain(name: str) -> str:
    """A class name as one writes it: spaces for underscores and slashes.

    Args:
        name: as a data set has it.

    Examples:
        >>> plain("aquarium_fish")
        'aquarium fish'
    """
    return " ".join(name.replace("_", " ").replace("/", " ").split())


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
