"""Costs per sample of what an objective adds to the towers: vocabulary layers, decoders and the loss of pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.objectives import Coca, Objective, WeightedSum
from lightning_clip.planning.towers import FakeClip, TowerCost, measure

__all__ = ["learned", "measure_objectives", "texts_per_pair", "uncounted"]


def measure_objectives(fake: FakeClip, objective: Objective, image_size: int, caption_length: int) -> tuple[TowerCost, ...]:
    """Costs of the parts of each objective that predicts texts; those of weight 0 cost nothing. Others are `uncounted`.

    Args:
        fake: of `fake_clip`.
        objective: what is learned.
        image_size: side in pixels.
        caption_length: tokens L to which a batch of captions is padded.
    """
    costs = []
    for term in learned(objective):
        parts = fake.model.parts()
        own = {name: parts[name] for name in sorted(term.scoring_parts | term.training_parts) if name in parts}
        if own and _predicts_texts(term):
            costs.append(_measured(fake, term, own, image_size, caption_length))
    return tuple(costs)


def learned(objective: Objective) -> list[Objective]:
    """The objectives of a sum that have a weight, or the one itself.

    Args:
        objective: of a module.
    """
    return objective.learned() if isinstance(objective, WeightedSum) else [objective]


def uncounted(objective: Objective) -> tuple[str, ...]:
    """Names of objectives that compute what `plan` does not count, such as what a teacher sees.

    Args:
        objective: of a module.
    """
    known = [term for term in learned(objective) if term.further_values() or _predicts_texts(term)]
    plain = [term for term in learned(objective) if term not in known and _computes(term)]
    return tuple(str(term.to_mapping().get("name", type(term).__name__)) for term in plain)


def _computes(term: Objective) -> bool:
    """Whether it runs parts of a model beside the features that it reads."""
    return any(getattr(type(term), name) is not getattr(Objective, name) for name in ("rows", "once", "select"))


def texts_per_pair(objective: Objective) -> int:
    """With how many texts, or other second views, the images of a step are compared for each pair, over all objectives.

    Args:
        objective: of a module.
    """
    return sum(1 + term.further_values().get("text", 0) for term in learned(objective) if len(term.reads()) > 1)


def _predicts_texts(term: Objective) -> bool:
    """By a layer over a vocabulary or a decoder, whose `rows` needs no pixels."""
    return bool(term.predicts()) or isinstance(term, Coca)


def _measured(fake: FakeClip, term: Objective, parts: dict[str, nn.Module], image_size: int, caption_length: int) -> TowerCost:
    shapes = {column: _token_shape(fake, column, image_size, caption_length) for column in term.reads_tokens()}

    def compute(size: int) -> Tensor:
        features = torch.empty(size, fake.model.embed_dim, requires_grad=True)
        dtype = next(weight.dtype for weight in fake.model.tower("image").parameters())
        tokens = {name: torch.empty(size, *shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()}
        output = ClipOutput({"image": features}, torch.ones(1), tokens=tokens)
        rows: Any = term.rows(fake.model, output, _batch(size, caption_length))
        return torch.stack(list(rows.values()))

    return replace(measure("+".join(parts), compute, fake, tuple(parts.values())), kind="part")


def _token_shape(fake: FakeClip, column: str, image_size: int, caption_length: int) -> tuple[int, int]:
    """Number and width of a tower's tokens."""
    tower = fake.model.tower(column)
    with fake.mode, torch.no_grad():
        dtype = next(weight.dtype for weight in tower.parameters())
        value: tuple[Tensor, ...] = (torch.empty(2, getattr(tower, "channels", 3), image_size, image_size, dtype=dtype),)
        if column == "text":
            ids = torch.zeros(2, caption_length, dtype=torch.long)
            value = (ids, torch.ones_like(ids, dtype=torch.bool))
        tokens: Tensor = tower.forward_tokens(*value)
    return tokens.shape[1], tokens.shape[2]


def _batch(size: int, caption_length: int) -> PairBatch:
    """Captions of that many tokens and no words: an entry of a bag costs nothing beside the layer."""
    tokens = torch.zeros(size, caption_length, dtype=torch.long)
    index = torch.arange(size)
    captions: list[tuple[str, ...]] = [("",)] * size
    return PairBatch(None, tokens, torch.ones_like(tokens, dtype=torch.bool), index, index, captions, [""] * size, [])
