"""Model soups: several fine-tuned models of one start arrive, one model with averaged weights leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_clip.adapt.interpolation import check_same
from lightning_clip.errors import InputError
from lightning_clip.module import ClipModule

__all__ = ["Soup", "average", "greedy_soup", "uniform_soup"]


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights of the same names and shapes; whole numbers and flags are the first one's.

    Summed in float64, so that the order of the models does not matter.

    Raises:
        InputError: no model, or different architectures.
    """
    if not states:
        raise InputError("a soup needs at least one model")
    for number, state in enumerate(states[1:], start=2):
        check_same(states[0], state, "model 1", f"model {number}")
    if len(states) == 1:
        return {name: value.clone() for name, value in states[0].items()}
    return {
        name: (sum(state[name].double() for state in states) / len(states)).to(value.dtype)  # type: ignore[union-attr]
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


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
    """The mean of all models (Wortsman et al. 2022, arXiv 2203.05482, section 2).

    Args:
        modules: fine-tuned from one start.
        score: of a model on a validation set, to be shown; None scores nothing.
        prepare: done to each mixed model, such as `recalibrate`.
    """
    mixed = _mixed(modules, list(range(len(modules))), prepare)
    scores = [score(module) for module in modules] if score else []
    return Soup(mixed, list(range(len(modules))), scores, score(mixed) if score else None)


def greedy_soup(modules: Sequence[ClipModule], score: Callable[[ClipModule], float], prepare: Prepare | None = None) -> Soup:
    """From the best model on, each next one is kept where the soup is no worse for it (the same paper, recipe 1).

    On the validation set the soup is never worse than the best model alone.

    Args:
        modules: fine-tuned from one start.
        score: of a model on a validation set, the higher the better.
        prepare: done to each mixed model, such as `recalibrate`.
    """
    scores = [score(module) for module in modules]
    order = sorted(range(len(modules)), key=lambda place: -scores[place])
    used, best, soup = order[:1], scores[order[0]], _mixed(modules, order[:1], prepare)
    for place in order[1:]:
        trial = _mixed(modules, [*used, place], prepare)
        if (found := score(trial)) >= best:
            used, best, soup = [*used, place], found, trial
    return Soup(soup, used, scores, best)


def _mixed(modules: Sequence[ClipModule], places: Sequence[int], prepare: Prepare | None) -> ClipModule:
    if not modules:
        raise InputError("a soup needs at least one model")
    mixed = copy.deepcopy(modules[0]).eval()
    with torch.no_grad():
        mixed.model.load_state_dict(average([modules[place].model.state_dict() for place in places]))
    if prepare is not None and len(places) > 1:
        prepare(mixed)
    return mixed
