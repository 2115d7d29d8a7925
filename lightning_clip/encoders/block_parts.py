"""`BlockParts`: a Transformer block taken apart, of whatever library it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["BlockParts"]


@dataclass(frozen=True)
class BlockParts:
    """A pre-norm block x + attention(norm(x)), x + mlp(norm(x)), taken apart.

    Attributes:
        heads: tokens (B, L, W) -> queries, keys and values (B, H, L, D), with the norm before them.
        project: what the heads found (B, L, H D) -> what is added to the tokens (B, L, W).
        mlp: tokens (B, L, W) -> what is added to them (B, L, W), with the norm before it.
    """

    heads: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    project: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]

    def added(self, found: Tensor) -> Tensor:
        """What heads found (B, H, L, D) -> what is added to the tokens (B, L, W)."""
        return self.project(found.transpose(1, 2).flatten(-2))  # (B, H, L, D) -> (B, L, H D) -> (B, L, W)
