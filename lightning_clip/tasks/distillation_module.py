"""`DistillationModule`: the objective "distillation" beside the loss over the pairs themselves, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.objectives import build_objective, each_objective
from lightning_clip.tasks.distillation import Distillation

__all__ = ["DistillationModule"]


class DistillationModule(ClipModule):
    """A `ClipModule` that learns from teachers: the objective [pairs, distillation], of which validation scores the pairs.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        teachers: see `Distillation`; None takes "stored".
        contrastive: weight of the loss over the pairs themselves, by default 0; `objective` says which loss.
        logits: see `Distillation`.
        features: see `Distillation`.
        distance: see `Distillation`.
        **arguments: of `ClipModule`; `objective` is that of the pairs, by default "pairs".

    Raises:
        InputError: as `Distillation`, or weights that are all 0.

    Examples:
        >>> module = DistillationModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ...     contrastive=0.5,
        ... )
        >>> [term["name"] for term in module.to_mapping()["objective"]]
        ['pairs', 'distillation']
    """

    def __init__(
        self,
        *towers: Any,
        teachers: Any = None,
        contrastive: float | None = None,
        logits: float | None = None,
        features: float | None = None,
        distance: str | None = None,
        **arguments: Any,
    ) -> None:
        settings = {"teachers": teachers, "logits": logits, "features": features, "distance": distance}
        said = {key: value for key, value in settings.items() if value is not None}
        arguments["objective"] = _taught(arguments.get("objective"), contrastive, said)
        super().__init__(*towers, **arguments)

    @property
    def distillation(self) -> Distillation:
        """What is learned from teachers."""
        return next(term for term in each_objective(self.objective) if isinstance(term, Distillation))


def _taught(given: Any, contrastive: float | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs and distillation with their weights, from what a checkpoint stored or from the objective of the pairs."""
    several = list(given) if isinstance(given, list | tuple) else []
    stored = [entry for entry in several if isinstance(entry, Mapping) and entry.get("name") == "distillation"]
    if stored:
        return _as_stored([dict(entry) for entry in several if entry not in stored], {**stored[0], **settings}, contrastive)
    weights = {
        "contrastive": contrastive or 0.0,
        "logits": settings.get("logits", 1.0),
        "features": settings.get("features", 0.0),
    }
    if min(weights.values()) < 0 or not any(weights.values()):
        shown = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        raise InputError(f"{shown} are weights of the loss: from 0, and one of them above it")
    if not (weights["logits"] or weights["features"]):  # no teacher has a say: the student alone, for comparison
        own = {"name": "distillation", **settings, "logits": 1.0, "weight": 0.0}
    else:
        own = {"name": "distillation", **settings, "weight": 1.0}
    return [{**_named(given), "weight": weights["contrastive"]}, own]


def _as_stored(others: list[dict[str, Any]], own: dict[str, Any], contrastive: float | None) -> list[dict[str, Any]]:
    """The entries of a checkpoint, with another weight of the pairs where one is given."""
    if contrastive is not None:
        others = [{**entry, "weight": contrastive} for entry in others]
    return [*others, own]


def _named(given: Any) -> dict[str, Any]:
    """The objective of the pairs as an entry of a list."""
    if isinstance(given, list | tuple):
        raise InputError(
            f"DistillationModule takes one objective of the pairs, not {list(given)!r}: for several use "
            "ClipModule(objective=[..., {name: distillation}])"
        )
    if given is None:
        return {"name": "pairs"}
    if isinstance(given, Mapping) and "name" in given:
        return dict(given)
    return {"name": given} if isinstance(given, str) else {"objective": build_objective(given)}
