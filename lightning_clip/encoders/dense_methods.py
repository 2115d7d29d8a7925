"""Methods of dense features: how the last attention of a ViT is computed so that each token speaks for its own place.

CLIP trains the class token alone: in the last block the other tokens gather what that token may need, from anywhere. None of
these methods trains anything; all but "plain" change one block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_clip.core.registry import Registry
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.block_parts import BlockParts

__all__ = ["ClearClip", "DenseMethod", "MaskClip", "NaClip", "PlainTokens", "Sclip", "dense_methods", "neighbourhood"]

dense_methods: Registry[DenseMethod] = Registry("dense method")


class DenseMethod(ABC):
    """The last block of a ViT, computed in another way; a subclass registered in `dense_methods` is one file.

    Attributes:
        keeps_rest: the tokens before the block are added and its MLP is computed; else what attention found is all there is.
    """

    keeps_rest: bool = True

    @abstractmethod
    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """Queries and keys (B, H, L, D) -> weights of values (B, H, L, L).

        Args:
            query: with L = prefix + rows * columns tokens.
            key: of the same tokens.
            prefix: tokens that stand for no place; they come first.
            rows: of the grid.
            columns: of the grid.
        """

    def found(self, query: Tensor, key: Tensor, value: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """What each head finds for each token (B, H, L, D); arguments as for `weights`."""
        return self.weights(query, key, prefix, rows, columns) @ value  # (B, H, L, L) @ (B, H, L, D)

    def __call__(self, x: Tensor, parts: BlockParts, prefix: int, rows: int, columns: int) -> Tensor:
        """Tokens (B, L, W) before the last block -> behind it (B, L, W)."""
        added = parts.added(self.found(*parts.heads(x), prefix, rows, columns))
        if not self.keeps_rest:
            return added
        x = x + added
        return x + parts.mlp(x)


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """Scaled products of all tokens with all: (B, H, L, D) twice -> (B, H, L, L)."""
    products = one @ other.transpose(-2, -1)  # (B, H, L, D) @ (B, H, D, L)
    return products / math.sqrt(one.shape[-1])


@dense_methods.register("plain")
class PlainTokens(DenseMethod):
    """The block as it was trained; the tokens are those of `forward_tokens`."""

    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """softmax(q k^T / sqrt(D)) (B, H, L, L)."""
        return _alike(query, key).softmax(dim=-1)


@dense_methods.register("maskclip")
class MaskClip(DenseMethod):
    """Each token finds its own value alone (Zhou et al. 2022, MaskCLIP, arXiv 2112.01071, as in the authors' code)."""

    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """The identity (L, L)."""
        return torch.eye(query.shape[-2], dtype=query.dtype, device=query.device)

    def found(self, query: Tensor, key: Tensor, value: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """The values (B, H, L, D) as they are."""
        return value


@dense_methods.register("sclip")
class Sclip(DenseMethod):
    """Tokens find those that ask alike and those that answer alike (Wang et al. 2024, SCLIP, arXiv 2312.01597, equation 4)."""

    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """softmax(q q^T / sqrt(D)) + softmax(k k^T / sqrt(D)) (B, H, L, L)."""
        return _alike(query, query).softmax(dim=-1) + _alike(key, key).softmax(dim=-1)


@dense_methods.register("clearclip")
class ClearClip(DenseMethod):
    """Tokens find those that ask alike, and only what they find is left (Lan et al. 2024, ClearCLIP, arXiv 2407.12442)."""

    keeps_rest = False

    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """softmax(q q^T / sqrt(D)) (B, H, L, L)."""
        return _alike(query, query).softmax(dim=-1)


@dense_methods.register("naclip")
class NaClip(DenseMethod):
    """Tokens find neighbours that answer alike (Hajimiri et al. 2024, NACLIP, arXiv 2404.08181); only that is left.

    Args:
        std: of the neighbourhood, in tokens.
    """

    keeps_rest = False

    def __init__(self, std: float = 5.0) -> None:
        in_range("naclip's std", std, 0, open_low=True)
        self.std = std

    def weights(self, query: Tensor, key: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
        """softmax(k k^T / sqrt(D) + exp(-distance^2 / (2 std^2))) (B, H, L, L); tokens of no place are near to none."""
        near = pad(neighbourhood(rows, columns, self.std), (prefix, 0, prefix, 0))  # (r c, r c) -> (L, L)
        return (_alike(key, key) + near.to(key)).softmax(dim=-1)


def neighbourhood(rows: int, columns: int, std: float) -> Tensor:
    """exp(-distance^2 / (2 std^2)) of all places of a grid to all, row by row: float64 (rows * columns, rows * columns).

    Args:
        rows: of the grid.
        columns: of the grid.
        std: in steps of the grid.
    """
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()  # (r c, 2)
    squares = (places[:, None] - places[None]).square().sum(dim=-1)  # (r c, r c)
    return torch.exp(-squares / (2 * std * std))
