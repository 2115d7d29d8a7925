"""Dense features of image towers: tokens by their place in the picture, and a tower seen as the steps that make them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.block_parts import BlockParts
from lightning_clip.encoders.dense_methods import DenseMethod, PlainTokens, dense_methods

__all__ = ["DenseView", "TokenGrid", "dense_tokens", "square_grid"]


class TokenGrid(NamedTuple):
    """Tokens of pictures, by what they stand for.

    Attributes:
        prefix: (B, P, W) of those that stand for no place: class and register tokens; P may be 0.
        grid: (B, rows, columns, W), from the top left.
    """

    prefix: Tensor
    grid: Tensor

    @classmethod
    def split(cls, tokens: Tensor, prefix: int, rows: int, columns: int) -> TokenGrid:
        """Tokens (B, L, W), those of no place first, with L = prefix + rows * columns."""
        grid = tokens[:, prefix:]
        return cls(tokens[:, :prefix], grid.reshape(len(grid), rows, columns, -1))  # (B, r c, W) -> (B, r, c, W)

    def tokens(self) -> Tensor:
        """All of them (B, L, W), in the order of `forward_tokens`."""
        return torch.cat([self.prefix, self.grid.flatten(1, 2)], dim=1)  # (B, P, W), (B, r c, W) -> (B, L, W)


class DenseView(ABC):
    """An image tower as steps: `enter`, one block after the other, `leave`; then `each` token for itself or `pool` for all.

    `pool` of what `leave` gives are the features of `forward`. A view is made for one call and kept by none.

    Attributes:
        prefix: P, the number of tokens that stand for no place.
        reads_first: the features are those of the first token alone, as a class token's are.
        blocks: Transformer blocks that `parts` takes apart; empty for convolutional networks and unknown kinds.
    """

    prefix: int = 0
    reads_first: bool = False
    blocks: list[nn.Module]

    def __init__(self, blocks: list[nn.Module], prefix: int = 0, *, reads_first: bool = False) -> None:
        self.blocks, self.prefix, self.reads_first = blocks, prefix, reads_first

    @abstractmethod
    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> tokens (B, L, W) before the first of `blocks`, rows and columns."""

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block as it is: tokens (B, L, W) -> (B, L, W)."""
        out: Tensor = block(x)
        return out

    def parts(self, block: nn.Module) -> BlockParts:
        """A block of `blocks`, taken apart.

        Raises:
            InputError: a block of a kind that is not known.
        """
        raise InputError(f"{type(block).__name__} is no block whose attention is known: use method 'plain'")

    def leave(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) behind the last block -> those that the pooling reads (B, L, W), which are `forward_tokens`'s.

        open_clip's own ViT has its norm inside of the pooling, and hands out tokens with it and without the class token.
        """
        return x

    @abstractmethod
    def each(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, W) as `leave` gives them -> features of each as if it were all there is (B, L, output_dim)."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, W) as `leave` gives them -> features (B, output_dim)."""


def dense_tokens(view: DenseView, image: Tensor, method: str | DenseMethod | None = None) -> TokenGrid:
    """Tokens of pictures by their place, as `forward_tokens` gives them or with another last block.

    Args:
        view: of the tower.
        image: normalised float pixels (B, 3, S, S).
        method: how the last block is computed; None takes "naclip" where the tower has blocks, else "plain".

    Raises:
        InputError: an unknown method, or one that needs blocks of a kind that the tower does not have.
    """
    chosen = dense_methods.build(method or ("naclip" if view.blocks else "plain"))
    x, rows, columns = view.enter(image)
    if not view.blocks and not isinstance(chosen, PlainTokens):
        raise InputError(f"method {method!r} changes the last attention of a ViT, and this tower has none: use method 'plain'")
    for block in view.blocks[:-1]:
        x = view.run(block, x)
    for last in view.blocks[-1:]:
        plain = isinstance(chosen, PlainTokens)
        x = view.run(last, x) if plain else chosen(x, view.parts(last), view.prefix, rows, columns)
    return TokenGrid.split(view.leave(x), view.prefix, rows, columns)


def square_grid(count: int) -> tuple[int, int]:
    """Side of the largest square that so many tokens fill, and how many are left: those of no place.

    Examples:
        >>> square_grid(197), square_grid(64)
        ((14, 1), (8, 0))
    """
    side = math.isqrt(count)
    return side, count - side * side
