"""Templates of well-known sets by the name of the set; importing this adds them to `TEMPLATE_SETS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning_clip.prompts.sets.paper_words import PAPER_SETS, paper_templates
from lightning_clip.prompts.templates import TEMPLATE_SETS

__all__ = ["SET_TEMPLATES"]

# The paper's own (https://github.com/openai/CLIP/blob/main/data/prompts.md), and ours for two sets that it has none for.
SET_TEMPLATES: dict[str, tuple[str, ...]] = {
    "fashion_mnist": ("a photo of a {}.", "a grayscale photo of a {}.", "a photo of a {}, a type of clothing."),
    "svhn": ('a photo of the number: "{}".', 'a photo of a house number with the digit "{}".'),
    **{name: paper_templates(name) for name in PAPER_SETS},
}


def _listed(name: str) -> list[str]:
    return list(SET_TEMPLATES[name])


_MADE: dict[str, Callable[[], list[str]]] = {name: partial(_listed, name) for name in SET_TEMPLATES}
TEMPLATE_SETS.update(_MADE)
