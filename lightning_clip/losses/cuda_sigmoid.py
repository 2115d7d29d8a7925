r"""The sigmoid loss on CUDA: three products and one pass, the gradient is formed with the loss.

Chunks of rows meet blocks of columns: a product in float32, one pass that turns it into loss and gradient by the logits, and
for each chunk two products back to the features. Scale and bias stay on the device, nothing waits for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_clip.losses.cuda_passes import Block, Parts, fill_sigmoid
from lightning_clip.losses.cuda_products import Factors, factors_of, gain_of, matrix, plan_of, scaled
from lightning_clip.losses.tiling import full_precision, refuse_double_backward

__all__ = ["CudaSigmoid"]


class CudaSigmoid(torch.autograd.Function):
    """The loss () of features (B, D), scale (1,), bias (1,), multiplied as `planes` values of `dtype`."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, planes: int
    ) -> Tensor:
        with full_precision(images.device):
            factors = factors_of(images, dtype, planes), factors_of(texts, dtype, planes)
            s, b = (value.detach().float() for value in (scale, bias))
            wanted = ctx.needs_input_grad
            totals, pulled, pushed = _sums(*factors, s, b, any(wanted), wanted[0], wanted[1])
            ctx.share, ctx.gain, ctx.types = 1 / len(images), gain_of(dtype), (images.dtype, scale.dtype, bias.dtype)
            ctx.shapes = scale.shape, bias.shape
            ctx.save_for_backward(pulled, pushed, totals, s)
            return totals[0] * ctx.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("sigmoid")
        pulled, pushed, totals, scale = ctx.saved_tensors
        features, scale_type, bias_type = ctx.types
        weight = upstream[0] * ctx.share
        factor = weight * scale.view(()) * (1 / ctx.gain)
        sums = totals * weight
        return (
            None if pulled is None else scaled(pulled, factor, features),
            None if pushed is None else scaled(pushed, factor, features),
            sums[2].to(scale_type).view(ctx.shapes[0]),
            sums[1].to(bias_type).view(ctx.shapes[1]),
            None,
            None,
        )


def _sums(
    images: Factors, texts: Factors, scale: Tensor, bias: Tensor, gradient: bool, pull: bool, push: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss, its gradient by the logits summed up, and times the products (3,); what images and texts get before the scale."""
    like = images.planes
    (planes, _, width), dtype = like.shape, like.dtype
    plan = plan_of(len(images), len(texts), dtype, planes)
    products = matrix(min(plan.height, len(images)), min(plan.width, len(texts)), like, torch.float32)[0]
    slopes = matrix(min(plan.height, len(images)), len(texts), like, dtype, planes) if gradient else None
    pulled = like.new_empty(len(images), width, dtype=torch.float32) if pull else None
    pushed = like.new_empty(len(texts), width, dtype=torch.float32) if push else None
    parts = None
    for rows in plan.chunks():
        chunk = images.part(rows)
        for columns in plan.blocks():
            block = Block(products[: len(chunk), : columns.stop - columns.start], rows.start - columns.start)
            chunk.products(texts.part(columns), block.products)
            parts = parts or Parts(3, block)
            fill_sigmoid(
                block, None if slopes is None else slopes[:, : len(chunk), columns], parts, scale, bias, gain_of(dtype)
            )
        if slopes is not None and pulled is not None:
            texts.combine(slopes[:, : len(chunk)], pulled[rows], add=False)
        if slopes is not None and pushed is not None:
            chunk.combine(slopes[:, : len(chunk)].transpose(1, 2), pushed, add=rows.start > 0)
    assert parts is not None
    return parts.totals(), pulled, pushed
