"""Costs per sample of what an objective adds to the towers: vocabulary layers and decoders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.objectives import Objective, WeightedSum
from lightning_clip.planning.towers import FakeClip, TowerCost, measure

__all__ = ["measure_objectives"]


def measure_objectives(fake: FakeClip, objective: Objective, image_size: int, caption_length: int) -> tuple[TowerCost, ...]:
    """Costs of the parts of each objective that predicts texts; those of weight 0 cost nothing.

    Args:
        fake: of `fake_clip`.
        objective: what is learned.
        image_size: side in pixels.
        caption_length: tokens L to which a batch of captions is padded.
    """
    terms = [objective]
    if isinstance(objective, WeightedSum):
        terms = [term for name, term in objective.each().items() if objective.weights[name]]
    costs = []
    for term in terms:
        parts = fake.model.parts()
        own = {name: parts[name] for name in sorted(term.scoring_parts | term.training_parts) if name in parts}
        if own and term.predicts():
            costs.append(_measured(fake, term, own, image_size, caption_length))
    return tuple(costs)


def _measured(fake: FakeClip, term: Objective, parts: dict[str, nn.Module], image_size: int, caption_length: int) -> TowerCost:
    shape = _token_shape(fake, image_size) if term.reads_tokens() else None

    def compute(size: int) -> Tensor:
        features = torch.empty(size, fake.model.embed_dim, requires_grad=True)
        dtype = next(weight.dtype for weight in fake.model.tower("image").parameters())
        tokens = {} if shape is None else {"image": torch.empty(size, *shape, dtype=dtype, requires_grad=True)}
        output = ClipOutput({"image": features}, torch.ones(1), tokens=tokens)
        rows: Any = term.rows(fake.model, output, _batch(size, caption_length))
        return torch.stack(list(rows.values()))

    return replace(measure("+".join(parts), compute, fake, tuple(parts.values())), kind="part")


def _token_shape(fake: FakeClip, image_size: int) -> tuple[int, int]:
    """Number and width of the image tower's tokens."""
    tower = fake.model.tower("image")
    with fake.mode, torch.no_grad():
        dtype = next(weight.dtype for weight in tower.parameters())
        tokens: Tensor = tower.forward_tokens(torch.empty(2, 3, image_size, image_size, dtype=dtype))
    return tokens.shape[1], tokens.shape[2]


def _batch(size: int, caption_length: int) -> PairBatch:
    """Captions of that many tokens and no words: an entry of a bag costs nothing beside the layer."""
    tokens = torch.zeros(size, caption_length, dtype=torch.long)
    index = torch.arange(size)
    captions: list[tuple[str, ...]] = [("",)] * size
    return PairBatch(None, tokens, torch.ones_like(tokens, dtype=torch.bool), index, index, captions, [""] * size, [])
