"""Relevance of places for a similarity: attention times its gradient through a ViT's blocks, or Grad-CAM of a map.

Chefer, Gur and Wolf 2021 (Generic Attention-model Explainability, arXiv 2103.15679), equations 5 and 6: block by block
R <- R + mean_h(relu(A * dA)) R from R = identity, A being the attention of a head and dA the gradient of what is explained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.dense_methods import dense_methods

__all__ = ["gradcam", "rollout"]

# Tokens behind the last block (B, L, W) -> one number for each picture (B,).
Score = Callable[[Tensor], Tensor]


def rollout(view: DenseView, image: Tensor, score: Score) -> Tensor:
    """Relevance of each place of pictures by a ViT's attention: (B, rows, columns), at least 0.

    Args:
        view: of a tower with `blocks`.
        image: normalised float pixels (B, 3, S, S).
        score: tokens (B, L, W) as `view.leave` gives them -> what is explained (B,), with gradient.
    """
    x, rows, columns = view.enter(image)
    plain, maps = dense_methods.build("plain"), []
    for block in view.blocks:
        parts = view.parts(block)
        query, key, value = parts.heads(x)
        weights = plain.weights(query, key, view.prefix, rows, columns)  # (B, H, L, L)
        if not weights.requires_grad:
            weights.requires_grad_()  # in a tower whose weights are frozen
        maps.append(weights)
        x = x + parts.added(weights @ value)
        x = x + parts.mlp(x)
    tokens = view.leave(x)
    total = score(tokens).sum()
    *gradients, of_tokens = torch.autograd.grad(total, [*maps, tokens], allow_unused=True)
    relevance = _read_tokens(view, tokens.detach(), of_tokens)  # (B, 1, L): which tokens the features are read from
    # The product from the last block to the first: one row of R is all that is read.
    for weights, gradient in zip(reversed(maps), reversed(gradients), strict=True):
        if gradient is not None:
            step = (weights.detach() * gradient).clamp(min=0).mean(dim=1)  # (B, H, L, L) -> (B, L, L)
            relevance = relevance + relevance @ step
    return relevance[:, 0, view.prefix :].reshape(len(image), rows, columns)


def _read_tokens(view: DenseView, tokens: Tensor, gradient: Tensor) -> Tensor:
    """(B, 1, L): the class token where features are its own, else each token by what it adds: relu(token . gradient)."""
    if view.reads_first:
        first = torch.zeros_like(tokens[:, None, :, 0])  # (B, 1, L)
        first[..., 0] = 1
        return first
    added = (tokens * gradient).sum(dim=-1).clamp(min=0)  # (B, L, W) -> (B, L)
    return (added / added.sum(dim=-1, keepdim=True).clamp(min=1e-12))[:, None]


def gradcam(view: DenseView, image: Tensor, score: Score) -> Tensor:
    """Relevance of each place of pictures by the last map of a network (Selvaraju et al. 2017): (B, rows, columns), at least 0.

    Args:
        view: of any tower that has features of places.
        image: normalised float pixels (B, 3, S, S).
        score: tokens (B, L, W) as `view.leave` gives them -> what is explained (B,), with gradient.
    """
    last = view.blocks[-1:] if view.reads_first else []
    with torch.no_grad():
        x, rows, columns = view.enter(image)
        for block in view.blocks[: len(view.blocks) - len(last)]:
            x = view.run(block, x)
        x = x if last else view.leave(x)
    seen = x.detach().requires_grad_()  # before the last block, where behind it the first token alone is read
    tokens = view.leave(view.run(last[0], seen)) if last else seen
    (gradient,) = torch.autograd.grad(score(tokens).sum(), seen)
    channels = gradient[:, view.prefix :].mean(dim=1, keepdim=True)  # (B, L, W) -> (B, 1, W)
    found = (channels * seen[:, view.prefix :]).sum(dim=-1).clamp(min=0)  # -> (B, L - P)
    return found.detach().reshape(len(image), rows, columns)
