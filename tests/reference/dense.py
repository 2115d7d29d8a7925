"""The losses in float64 over the whole matrix of logits, written so that converged batches keep their digits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def softmax(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None = None, image_weight: float = 0.5) -> Tensor:
    """The pair never enters the log-sum, so nothing cancels where it outweighs all others."""
    logits = scale * images @ texts.T
    pair = logits.diagonal()
    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    to_text = softplus(others.logsumexp(dim=1) - pair, threshold=100)
    to_image = softplus(others.logsumexp(dim=0) - pair, threshold=100)
    return (image_weight * to_text + (1 - image_weight) * to_image).mean()


def sigmoid(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * images @ texts.T + bias
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return softplus(-signs * logits, threshold=100).sum() / len(logits)


LOSSES = {"softmax": softmax, "sigmoid": sigmoid}


def gradients(name: str, images: Tensor, texts: Tensor, scale: float, bias: float) -> tuple[Tensor, list[Tensor | None]]:
    """Loss and gradients of both towers, scale and bias, in float64 from the given values."""
    inputs = [images.double(), texts.double(), torch.tensor([scale]).double(), torch.tensor([bias]).double()]
    inputs = [value.detach().requires_grad_() for value in inputs]
    loss = LOSSES[name](*inputs)
    loss.backward()
    return loss.detach(), [value.grad for value in inputs]
