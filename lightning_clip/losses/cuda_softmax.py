r"""The softmax loss on CUDA: four products and two passes, three products where the matrix fits in one chunk.

With logits :math:`z_{ij} = s\,u_i v_j`, :math:`r_i = \log \sum_{j \ne i} e^{z_{ij}}` and :math:`c_j = \log \sum_{i \ne j} e^{z_{ij}}`

.. math:: L = \frac{1}{N} \sum_i w \operatorname{softplus}(r_i - z_{ii}) + (1 - w) \operatorname{softplus}(c_i - z_{ii})

Each row and column of a tile is summed up by its own maximum, so that no range of logits needs another way and nothing waits
for the device to decide. The pair itself never enters a sum, or converged batches would lose their gradient to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_clip.losses.cuda_passes import Block, Parts, fill_softmax, finish_softmax, log_sum_parts, merge, sum_tile
from lightning_clip.losses.cuda_products import Factors, Plan, factors_of, gain_of, matrix, plan_of, scaled
from lightning_clip.losses.tiling import DENSE_BYTES, full_precision, refuse_double_backward

__all__ = ["CudaSoftmax"]


class CudaSoftmax(torch.autograd.Function):
    """The loss () of features (B, D), scale (1,), the weight of images, multiplied as `planes` values of `dtype`."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, image_weight: float, dtype: torch.dtype, planes: int
    ) -> Tensor:
        with full_precision(images.device):
            factors = factors_of(images, dtype, planes), factors_of(texts, dtype, planes)
            problem = _Problem(*factors, scale.detach().float(), tuple(ctx.needs_input_grad))
            total, kept = problem.sums(image_weight)
            ctx.types, ctx.shape, ctx.problem, ctx.gradients = (images.dtype, scale.dtype), scale.shape, problem, None
            if problem.dense and any(ctx.needs_input_grad):
                ctx.gradients = problem.gradients(kept)
            ctx.save_for_backward(*kept[:3])
            return total * problem.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        problem: _Problem = ctx.problem
        with full_precision(upstream[0].device):
            kept = (*ctx.saved_tensors, None)
            pulled, pushed, total = problem.gradients(kept) if ctx.gradients is None else ctx.gradients
        weight = upstream[0] * problem.share
        factor = weight * problem.scale.view(()) * (1 / problem.gain)
        return (
            None if pulled is None else scaled(pulled, factor, ctx.types[0]),
            None if pushed is None else scaled(pushed, factor, ctx.types[0]),
            (total * weight).to(ctx.types[1]).view(ctx.shape),
            *[None] * 3,
        )


# Per row and column log2 of the whole sum less log2 of its weight, what a pair gains, and the products where they are kept.
Kept = tuple[Tensor, Tensor, Tensor, "Tensor | None"]


@dataclass(frozen=True)
class _Problem:
    """The factors, the scale (1,) in float32, and which of images and texts want a gradient."""

    images: Factors
    texts: Factors
    scale: Tensor
    wanted: tuple[bool, ...]

    @property
    def share(self) -> float:
        """Weight of a row's loss."""
        return 1 / len(self.images)

    @property
    def gain(self) -> float:
        """By what gradients by logits are multiplied while they are held."""
        return gain_of(self.images.planes.dtype)

    @property
    def dense(self) -> bool:
        """Whether the matrix of products is kept whole, which saves computing it twice."""
        return 4 * len(self.images) * len(self.texts) <= DENSE_BYTES

    def plan(self) -> Plan:
        """How the matrix is cut."""
        shape = len(self.images), len(self.texts)
        if self.dense:
            return Plan(*shape, shape)
        return plan_of(*shape, self.images.planes.dtype, len(self.images.planes))

    def _block(self, memory: Tensor, rows: slice, columns: slice) -> Block:
        block = Block(memory[: rows.stop - rows.start, : columns.stop - columns.start], rows.start - columns.start)
        self.images.part(rows).products(self.texts.part(columns), block.products)
        return block

    def _memory(self, plan: Plan) -> Tensor:
        return matrix(min(plan.height, plan.shape[0]), min(plan.width, plan.shape[1]), self.scale, torch.float32)[0]

    def sums(self, image_weight: float) -> tuple[Tensor, Kept]:
        """The summed loss (), and what the gradient needs."""
        plan = self.plan()
        memory = self._memory(plan)
        row_logs, pairs = (self.scale.new_empty(len(self.images)) for _ in "rp")
        column_logs = self.scale.new_empty(len(self.texts))
        down, across = log_sum_parts(len(memory), len(self.texts), memory)
        for rows in plan.chunks():
            height = rows.stop - rows.start
            for columns in plan.blocks():
                sum_tile(
                    self._block(memory, rows, columns), self.scale, down[:, :height], across, pairs[rows], columns.start
                )
            merge(down[:, :height], row_logs[rows], first=True)
            merge(across[: log_sum_parts(height, 1, memory)[1].shape[0]], column_logs, first=rows.start == 0)
        total, own = finish_softmax(row_logs, column_logs, pairs, self.scale, image_weight)
        return total, (row_logs, column_logs, own, memory if self.dense else None)

    def gradients(self, kept: Kept) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Of images and texts before scale and share, times the gain, and the sum of gradient x product ()."""
        rows_total, columns_total, own, products = kept
        plan, like = self.plan(), self.images.planes
        memory = self._memory(plan) if products is None else products
        slopes = matrix(len(memory), len(self.texts), like, like.dtype, len(like))
        pulled, pushed = (
            like.new_empty(like.shape[1:], dtype=torch.float32) if wanted else None for wanted in self.wanted[:2]
        )
        parts = None
        for rows in plan.chunks():
            chunk = slopes[:, : rows.stop - rows.start]
            for columns in plan.blocks():
                block = self._block(memory, rows, columns) if products is None else Block(products, 0)
                parts = parts or Parts(1, block)
                fill_softmax(
                    block, chunk[:, :, columns], parts, self.scale, rows_total[rows], columns_total[columns], own[rows], self.gain
                )
            if pulled is not None:
                self.texts.combine(chunk, pulled[rows], add=False)
            if pushed is not None:
                self.images.part(rows).combine(chunk.transpose(1, 2), pushed, add=rows.start > 0)
        assert parts is not None
        return pulled, pushed, parts.totals()[0]
