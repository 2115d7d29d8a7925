"""Model soups: the average of several fine-tuned models of one start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.merging.merged import whole
from lightning_clip.merging.mixing import average, check_alike, lasting
from lightning_clip.module.clip_module import ClipModule

__all__ = ["Soup", "greedy_soup", "uniform_soup"]


Prepare = Callable[[ClipModule], None]


@dataclass(frozen=True)
class Soup:
    """A model of averaged weights.

    Attributes:
        module: in evaluation mode.
        used: places of the models in it.
        scores: of each model alone; empty where nothing was scored.
        score: of the soup; None likewise.
    """

    module: ClipModule
    used: list[int]
    scores: list[float]
    score: float | None = None


def uniform_soup(
    modules: Sequence[ClipModule], score: Callable[[ClipModule], float] | None = None, prepare: Prepare | None = None
) -> Soup:
    """The mean of all models (Wortsman et al. 2022, arXiv 2203.05482, section 2), adapters merged.

    Args:
        modules: fine-tuned from one start.
        score: of a model on a validation set, to be shown; None scores nothing.
        prepare: done to each mixed model, such as `recalibrate`.
    """
    modules = _mixable(modules)
    mixed = _mixed(modules, list(range(len(modules))), prepare)
    scores = [score(module) for module in modules] if score else []
    return Soup(mixed, list(range(len(modules))), scores, score(mixed) if score else None)


def greedy_soup(modules: Sequence[ClipModule], score: Callable[[ClipModule], float], prepare: Prepare | None = None) -> Soup:
    """From the best model on, each next one is kept where the soup is no worse for it (the same paper, recipe 1).

    On the validation set the soup is never worse than the best model alone. Adapters are merged.

    Args:
        modules: fine-tuned from one start.
        score: of a model on a validation set, the higher the better.
        prepare: done to each mixed model, such as `recalibrate`.
    """
    modules = _mixable(modules)
    scores = [score(module) for module in modules]
    order = sorted(range(len(modules)), key=lambda place: -scores[place])
    used, best, soup = order[:1], scores[order[0]], _mixed(modules, order[:1], prepare)
    for place in order[1:]:
        trial = _mixed(modules, [*used, place], prepare)
        if (found := score(trial)) >= best:
            used, best, soup = [*used, place], found, trial
    return Soup(soup, used, scores, best)


def _mixable(modules: Sequence[ClipModule]) -> list[ClipModule]:
    """The modules with whole weights: the mean of products B A is not the product of the means."""
    if not modules:
        raise InputError("a soup needs at least one model")
    found = [whole(module) for module in modules]
    for number, module in enumerate(found[1:], start=2):
        check_alike(found[0], module, "model 1", f"model {number}")
    return found


def _mixed(modules: Sequence[ClipModule], places: Sequence[int], prepare: Prepare | None) -> ClipModule:
    mixed = copy.deepcopy(modules[0]).eval()
    with torch.no_grad():
        mixed.model.load_state_dict(average([lasting(modules[place]) for place in places]), strict=False)
    if prepare is not None and len(places) > 1:
        prepare(mixed)
    return mixed
