"""What a user calls an objective -> the objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import LIVE
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.pairs import ContrastivePairs
from lightning_clip.objectives.weighted import WeightedSum

__all__ = ["build_objective"]


def build_objective(spec: Any) -> Objective:
    """An objective from a name, a mapping, an object, or a list of these with weights.

    A loss, or its name, stands for contrastive pairs with that loss.

    Args:
        spec: "pairs", "sigmoid", {"name": "pairs", "loss": ...}, [{"name": "pairs"}, {"name": ..., "weight": 0.5}], ...

    Raises:
        InputError: an unknown name or setting, or weights that are all 0.

    Examples:
        >>> build_objective([{"name": "pairs"}, {"name": "pairs", "between": ["image", "view2"], "weight": 0.5}]).reads()
        ('image', 'text', 'view2')
    """
    if isinstance(spec, list | tuple):
        return WeightedSum([_term(item) for item in spec])
    if isinstance(spec, ContrastiveLoss):
        return ContrastivePairs(spec)
    if isinstance(spec, Mapping) and "weight" in spec:
        return WeightedSum([_term(spec)])
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if isinstance(name, str) and name not in objectives.names() and name in losses.names():
        return ContrastivePairs(dict(spec) if isinstance(spec, Mapping) else spec)
    return objectives.build(spec)


def _term(item: Any) -> tuple[str, float, Objective]:
    """Name, weight and objective of one entry of a list."""
    if not isinstance(item, Mapping):
        return (item if isinstance(item, str) else type(item).__name__), 1.0, build_objective(item)
    settings = dict(item)
    weight = settings.pop("weight", 1.0)
    if isinstance(inner := settings.get("objective"), Objective):
        return type(inner).__name__, weight, inner
    if LIVE in settings:  # asks for it
        return settings[LIVE], weight, build_objective(settings)
    if "name" not in settings:
        raise InputError(f"objective {dict(item)!r} has no 'name': give one of {', '.join(objectives.names())}")
    return settings["name"], weight, build_objective(settings)
