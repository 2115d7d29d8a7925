"""The steps by which a recipe, weights and an objective become a model: `ClipModule` takes them, and what does without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from lightning_clip.model.build import build_model
from lightning_clip.model.recipe import Recipe
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective
from lightning_clip.objectives.weighted import builders
from lightning_clip.weights.source import Pretrained

__all__ = ["add_objective", "freeze", "loaded_model", "with_towers_read"]


def with_towers_read(recipe: Recipe, objective: Objective, reads: Iterable[str], reader: str) -> Recipe:
    """The recipe with the towers alone that are read or that the objective builds.

    Args:
        recipe: completed by `start_from`.
        objective: what is learned.
        reads: columns that are encoded.
        reader: who reads them, for the error.

    Raises:
        InputError: a column without a tower, or a wrong setting of the transform.
    """
    found = recipe.reading(dict.fromkeys(reads, reader) | builders(objective))
    _ = found.transform  # a wrong setting is said now, not when the first loader is made
    return found


def loaded_model(recipe: Recipe, tokenizer: Any, objective: Objective, start: Pretrained | None) -> SharedSpace:
    """Towers, heads and temperature, with the weights they start from.

    Args:
        recipe: with the towers that are read.
        tokenizer: which the text tower is made for; None without one.
        objective: says how the temperature begins.
        start: weights; None leaves the random ones.

    Raises:
        InputError: an unknown name or setting, or weights that do not fit.
    """
    model = build_model(recipe, tokenizer, objective.initial_temperature())
    if start is not None:
        start.load_into(model)
    return model


def add_objective(model: SharedSpace, objective: Objective, start: Pretrained | None = None) -> None:
    """Adds the objective's own parts to a model, in place, with the weights of `start`; freezes what it does not learn."""
    objective.build(model)
    if start is not None:
        start.load_parts_into(model)
    freeze(model, objective)


def freeze(model: SharedSpace, objective: Objective) -> None:
    """Parameters that the objective does not learn have no gradient."""
    learns = objective.learns()
    frozen = [parameter for name, parameter in model.named_parameters() if not name.startswith(learns)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if frozen:
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # of Lightning: here it is meant
