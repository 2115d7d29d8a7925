"""What a decoder must know of a text tower's tokens: their width, and that none of them has seen those after it."""

from __future__ import annotations

from typing import Any

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.model.evaluating import evaluating

__all__ = ["causal_width"]


def causal_width(tower: Any, vocab_size: int) -> int:
    """The width of a text tower's tokens, none of which may depend on those after it: what it knows it need not predict.

    Args:
        tower: a text tower with tokens.
        vocab_size: ids that it takes.

    Raises:
        InputError: a tower without tokens, or one that looks ahead.
    """
    weight = next(tower.parameters())
    ids = torch.arange(8, device=weight.device)[None] % vocab_size
    other = ids.clone()
    other[0, 5:] = 1
    with evaluating(tower):
        found = [tower.forward_tokens(row, torch.ones_like(row, dtype=torch.bool)) for row in (ids, other)]  # (1, 8, W)
    if not weight.is_meta and not torch.allclose(found[0][:, :5], found[1][:, :5], atol=1e-4):
        raise InputError(
            f"coca: the text tower {type(tower).__name__} sees the words that follow, which the decoder is to predict: use a "
            "causal one, such as clip_text_base"
        )
    width: int = found[0].shape[2]
    return width
