"""Draws for the rows of a batch that depend on the sample and the batch's number alone: not on ranks, slices or generators."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drawn_places"]

_ODD = (0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))  # of splitmix64


def drawn_places(allowed: Tensor, share: float, keys: Tensor, draw: int) -> Tensor:
    """A share of each row's allowed places, rounded up, as bool (B, L).

    Args:
        allowed: bool (B, L).
        share: in (0, 1].
        keys: int64 (B,), a number of each sample.
        draw: another number draws others.

    Examples:
        >>> allowed = torch.tensor([[False, True, True, True, True, False]])
        >>> drawn_places(allowed, 0.5, torch.tensor([7]), draw=0).sum().item()
        2
    """
    places = torch.arange(allowed.shape[1], device=allowed.device)
    noise = _mixed(_mixed(keys + draw * 1_000_003)[:, None] + places)  # (B, L)
    ranks = noise.masked_fill(~allowed, torch.iinfo(torch.int64).max).argsort(dim=1).argsort(dim=1)
    wanted = (allowed.sum(dim=1, keepdim=True) * share - 1e-6).ceil()  # (B, 1); 0.3 x 10 is 3
    return (ranks < wanted) & allowed


def _mixed(numbers: Tensor) -> Tensor:
    """Hashes int64, of which neighbours share nothing; arithmetic modulo 2^64, shifts without the sign."""
    mixed = numbers * _ODD[0]
    mixed = (mixed ^ ((mixed >> 30) & ((1 << 34) - 1))) * _ODD[1]
    mixed = (mixed ^ ((mixed >> 27) & ((1 << 37) - 1))) * _ODD[2]
    return mixed ^ ((mixed >> 31) & ((1 << 33) - 1))
