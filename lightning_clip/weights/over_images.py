"""Video towers that begin as the image tower of an image-text model: which settings and which weights they take over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import VideoTower, towers
from lightning_clip.model.recipe import Recipe, TowerSpec
from lightning_clip.weights.source import Pretrained

__all__ = ["over_images"]


def over_images(given: Recipe, found: Pretrained) -> tuple[Recipe, dict[str, Tensor]]:
    """Completes video towers that name no image tower with the one of the source.

    Args:
        given: the user's recipe.
        found: weights of a model with an image tower.

    Returns:
        The recipe, and the weights that such a tower begins with, by their names in the model.

    Raises:
        InputError: the source has no image tower.
    """
    completed = dict(given.towers)
    weights: dict[str, Tensor] = {}
    for column, spec in given.towers.items():
        settings = _settings(spec)
        if settings is None:
            continue
        image = found.recipe.towers.get("image")
        if image is None or image.tower is None:
            raise InputError(
                f"towers.{column} takes its image tower from pretrained {found.name!r}, which has none: give image"
            )
        completed[column] = replace(spec, tower={**settings, **_taken(found, image)}, projection=spec.projection or "none")
        for part in ("encoder", "projection"):
            own = f"image_{part}."
            weights |= {f"{column}_encoder.{key}": value for key, value in found.weights.items() if key.startswith(own)}
    return replace(given, towers=completed), weights


def _settings(spec: TowerSpec) -> dict[str, Any] | None:
    """Settings of a video tower that names no image tower; None of all others."""
    settings = {"name": spec.tower} if isinstance(spec.tower, str) else spec.tower
    if not isinstance(settings, Mapping) or settings.get("image") is not None or not isinstance(settings.get("name"), str):
        return None
    name = settings["name"]
    factory: Any = towers.factory(name) if name in towers.names() else None
    return dict(settings) if isinstance(factory, type) and issubclass(factory, VideoTower) else None


def _taken(found: Pretrained, image: TowerSpec) -> dict[str, Any]:
    """What a video tower takes over: image tower, head, width and how pixels are normalised."""
    transform = found.recipe.transform
    pixels = {name: list(value) for name in ("mean", "std") if (value := getattr(transform, name)) is not None}
    taken = {"image": image.tower, "width": found.recipe.embed_dim, "head": image.projection or "linear"}
    return {**taken, "normalise": pixels} if pixels else taken
