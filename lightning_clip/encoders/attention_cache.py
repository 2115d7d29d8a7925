"""Attention of the newest token alone: keys and values of those before it are kept, those of an image are computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from lightning_clip.encoders.recomputed import untouched

__all__ = ["ImageAttention", "KeptKeys", "OwnAttention", "is_plain_attention"]


def is_plain_attention(attention: Any) -> bool:
    """Whether an attention is torch's own, with one matrix for queries, keys and values, and nobody listens to its calls."""
    if not isinstance(attention, nn.MultiheadAttention) or not untouched(attention, nn.MultiheadAttention):
        return False
    one_matrix = attention.in_proj_weight is not None and attention.bias_k is None
    return one_matrix and attention.batch_first and untouched(attention.out_proj, type(attention.out_proj))


class KeptKeys:
    """Keys and values of the tokens of R captions so far, of one attention.

    Examples:
        >>> kept = KeptKeys()
        >>> new = torch.randn(3, 2, 1, 4)  # of 3 captions and 2 heads
        >>> torch.equal(kept.attend(new, new, new), new)
        True
        >>> kept.attend(new, new, new, torch.tensor([0, 0, 2])).shape, kept.key.shape
        (torch.Size([3, 2, 1, 4]), torch.Size([3, 2, 2, 4]))
    """

    def __init__(self) -> None:
        self.key, self.value = torch.empty(0), torch.empty(0)  # (R, H, L, D)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, came_from: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """What the newest tokens find among all tokens so far.

        Args:
            query: of the newest tokens (R, H, 1, D).
            key: likewise.
            value: likewise.
            came_from: int64 (R,), the row that each caption had in the last step; None where all kept theirs.
            seen: bool (R, 1, 1, L), the tokens that are looked at; None for all.

        Returns:
            (R, H, 1, D).
        """
        if self.key.ndim > 1:
            kept = (self.key, self.value) if came_from is None else (self.key[came_from], self.value[came_from])
            key, value = torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)  # (R, H, L, D)
        self.key, self.value = key, value
        return scaled_dot_product_attention(query, key, value, attn_mask=seen)


class OwnAttention:
    """Causal self-attention of captions that are written token by token.

    Args:
        attention: torch's.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        self.attention, self.kept = attention, KeptKeys()

    def __call__(self, x: Tensor, came_from: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """The newest tokens, normalised (R, 1, W) -> (R, 1, W).

        Args:
            x: of the block.
            came_from: as for `KeptKeys`.
            seen: as for `KeptKeys`.
        """
        query, key, value = (in_heads(self.attention, part) for part in projected(self.attention, x, 0, 3).chunk(3, dim=-1))
        found = self.kept.attend(query, key, value, came_from, seen).transpose(1, 2).flatten(-2)  # -> (R, 1, W)
        out: Tensor = self.attention.out_proj(found)
        return out


class ImageAttention:
    """Attention over an image's tokens, whose keys and values are computed once and serve all captions of the image.

    Args:
        attention: torch's.
        memory: what captions look at, normalised (N, P, W).
    """

    def __init__(self, attention: nn.MultiheadAttention, memory: Tensor) -> None:
        self.attention = attention
        self.key, self.value = (in_heads(attention, part) for part in projected(attention, memory, 1, 3).chunk(2, dim=-1))

    def __call__(self, x: Tensor) -> Tensor:
        """The newest tokens, normalised (N K, 1, W), K captions of each image one after the other -> (N K, 1, W)."""
        query = projected(self.attention, x, 0, 1).reshape(len(self.key), -1, x.shape[-1])  # (N K, 1, W) -> (N, K, W)
        found = scaled_dot_product_attention(in_heads(self.attention, query), self.key, self.value)  # (N, H, K, D)
        out: Tensor = self.attention.out_proj(found.transpose(1, 2).flatten(-2)).view(x.shape)
        return out


def projected(attention: nn.MultiheadAttention, x: Tensor, first: int, last: int) -> Tensor:
    """Queries, keys and values from `first` up to `last` of the three: (..., W) -> (..., (last - first) W)."""
    part = slice(first * attention.embed_dim, last * attention.embed_dim)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[part]
    return linear(x, attention.in_proj_weight[part], bias)


def in_heads(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(B, L, W) -> (B, H, L, D)."""
    return x.view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
