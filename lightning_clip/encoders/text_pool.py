"""`TextPool`: attention over an image's tokens with texts as queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from lightning_clip.core.errors import InputError

__all__ = ["TextPool"]

_TEXTS = 1024


class TextPool(nn.Module):
    """Pools the tokens of each image by each text: (N, D) and (B, L, 2 D) -> (B, N, D).

    An empty token stands beside the image's (FLAIR, Xiao et al. 2024), so that a text may find nothing.

    Args:
        width: W of the image tower's tokens.
        dim: D of texts and results.
        heads: they divide D.

    Raises:
        InputError: heads that do not divide D.

    Examples:
        >>> pool = TextPool(12, 8, 2)
        >>> pool(torch.randn(5, 8), pool.read(torch.randn(3, 7, 12))).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(f"heads {heads} must divide the width {dim} of the space")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.keys, self.out = nn.Linear(dim, dim), nn.Linear(width, 2 * dim), nn.Linear(dim, dim)

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, W) -> their keys and values (B, L, 2 D)."""
        found: Tensor = self.keys(self.norm(tokens))
        return found

    def forward(self, texts: Tensor, read: Tensor) -> Tensor:
        """Texts (N, D) and what was read of images (B, L, 2 D) -> (B, N, D), not normalised."""
        count, length = read.shape[:2]
        read = torch.cat([read.new_zeros(count, 1, read.shape[2]), read], dim=1)  # (B, 1 + L, 2 D)
        keys, values = read.view(count, 1 + length, 2, self.heads, -1).transpose(1, 3).unbind(2)  # (B, H, 1 + L, D / H)
        query = self.query(texts).view(len(texts), self.heads, -1).transpose(0, 1).expand(count, -1, -1, -1)  # (B, H, N, D / H)
        pooled = scaled_dot_product_attention(query, keys, values)  # (B, H, N, D / H)
        found: Tensor = self.out(pooled.transpose(1, 2).flatten(2))  # -> (B, N, D)
        return found

    def cosines(self, texts: Tensor, read: Tensor) -> Tensor:
        """Cosines (B, N) of unit texts (N, D) with what each finds in the images (B, L, 2 D)."""
        # So many texts at a time as bound the pooled features in memory.
        parts = [(normalize(self(some, read), dim=-1) * some).sum(dim=-1) for some in torch.split(texts, _TEXTS)]
        return torch.cat(parts, dim=1)
