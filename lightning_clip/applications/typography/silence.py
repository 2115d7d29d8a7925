"""Models some of whose heads write nothing of the picture into the class token: a `Predictor`, or weights to be kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.silenced import SilencedHeads
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.weights.trained import TrainedModel

if TYPE_CHECKING:
    from lightning_clip.encoders import ImageEncoder

__all__ = ["Heads", "silenced", "silenced_model"]

Heads = Sequence[Sequence[int]]  # pairs of a block and a head


def silenced(predictor: Predictor, heads: Heads, written: Tensor | None = None) -> Predictor:
    """A predictor that shares all weights with another, and in which heads are silent.

    Args:
        predictor: of a model whose image tower is a ViT with a class token.
        heads: pairs of a block and a head in it, in rising order.
        written: float (N, D), what each of them writes instead; None for zeros.

    Raises:
        InputError: a tower without such heads, or a head that it lacks.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> silenced(module.predictor, [(1, 0)]).model.image_encoder.heads
        [(1, 0)]
    """
    model = _with_tower(predictor.model, _silent_tower(predictor.model, heads, written))
    return Predictor(model, predictor.tokenizer, predictor.transform, predictor.scoring)


def silenced_model(model: Any, heads: Heads, written: Tensor | None = None) -> TrainedModel:
    """A model with silent heads, of which all is known that a checkpoint or an export needs.

    Args:
        model: a `TrainedModel`, or a `ClipModule` whose weights are whole.
        heads: as for `silenced`.
        written: as for `silenced`.

    Raises:
        InputError: as `silenced`.
    """
    tower = _silent_tower(model.model, heads, written)
    recipe = model.recipe
    image = replace(recipe.towers["image"], tower=tower.to_mapping())
    recipe = replace(recipe, towers={**recipe.towers, "image": image})
    return TrainedModel(_with_tower(model.model, tower).eval(), recipe, model.objective, model.tokenizer)


def _silent_tower(model: SharedSpace, heads: Heads, written: Tensor | None) -> SilencedHeads:
    """The image tower around its own weights; heads that are silent already stay so."""
    encoder: ImageEncoder = model.tower("image")
    given = [(int(block), int(head)) for block, head in heads]
    constants = {} if written is None else dict(zip(given, written, strict=True))
    if isinstance(encoder, SilencedHeads):
        constants = {**dict(zip(encoder.heads, encoder.written, strict=True)), **constants}
        given = sorted({*encoder.heads, *given})
        encoder = encoder.tower
    tower = SilencedHeads(encoder, given).to(next(encoder.parameters()).device)
    if encoder.to_mapping() is None:
        raise InputError(
            f"image tower {type(encoder).__name__} does not say how it is built: give it a to_mapping(), or register it"
        )
    for place, pair in enumerate(tower.heads):
        if pair in constants:
            tower.written[place] = constants[pair].to(tower.written)
    return tower.train(encoder.training)


def _with_tower(model: SharedSpace, tower: SilencedHeads) -> SharedSpace:
    """The same model, of the same weights, with another image tower."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.image_encoder = tower
    return other
