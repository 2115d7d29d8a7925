"""Templates of well-known sets by the name of the set; importing this adds them to `TEMPLATE_SETS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning_clip.prompts.templates import TEMPLATE_SETS

__all__ = ["SET_TEMPLATES"]

_OBJECTS = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a blurry photo of a {}.",
    "a low contrast photo of a {}.",
    "a high contrast photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
)
_PICTURES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a drawing of a {}.",
    "a painting of a {}.",
    "a sculpture of a {}.",
    "a cartoon {}.",
    "a toy {}.",
    "art of a {}.",
)

# Each says what kind of thing the set shows, as Radford et al. 2021 (section 3.1.4) advise; a few are theirs
# (https://github.com/openai/CLIP/blob/main/data/prompts.md), the lists are not.
SET_TEMPLATES: dict[str, tuple[str, ...]] = {
    "caltech101": _PICTURES,
    "cifar10": _OBJECTS,
    "cifar100": _OBJECTS,
    "country211": ("a photo i took in {}.", "a photo from {}.", "a photo of a place in {}."),
    "dtd": ("a photo of a {} texture.", "a photo of a {} pattern.", "a photo of something {}.", "a photo of a {} thing."),
    "eurosat": ("a centered satellite photo of {}.", "a centered satellite photo of a {}.", "a satellite image of {}."),
    "fashion_mnist": ("a photo of a {}.", "a grayscale photo of a {}.", "a photo of a {}, a type of clothing."),
    "fer2013": ("a photo of a {} face.", "a photo of a {} looking person.", "a face that looks {}."),
    "fgvc_aircraft": ("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
    "flowers102": ("a photo of a {}, a type of flower.",),
    "food101": ("a photo of {}, a type of food.",),
    "gtsrb": ('a photo of a "{}" traffic sign.', 'a close up photo of a "{}" traffic sign.'),
    "mnist": ('a photo of the number: "{}".',),
    "pcam": ("a microscope image of {}.", "this is a photo of {}."),
    "pets": ("a photo of a {}, a type of pet.",),
    "rendered_sst2": ("a {} review of a movie.",),
    "stanford_cars": ("a photo of a {}.", "a photo of the {}, a car.", "a photo of my {}.", "a photo of my clean {}."),
    "stl10": ("a photo of a {}.", "a photo of the {}."),
    "sun397": ("a photo of a {}.", "a photo of the {}.", "a photo of a {}, a kind of place."),
    "svhn": ('a photo of the number: "{}".', 'a photo of a house number with the digit "{}".'),
}


def _listed(name: str) -> list[str]:
    return list(SET_TEMPLATES[name])


_MADE: dict[str, Callable[[], list[str]]] = {name: partial(_listed, name) for name in SET_TEMPLATES}
TEMPLATE_SETS.update(_MADE)
