"""A short training after pretraining that closes the gap between images and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, xlogy
from torch.nn.functional import log_softmax

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.model.build import Temperature
from lightning_clip.model.space import SharedSpace
from lightning_clip.model.teacher import Teacher
from lightning_clip.objectives.base import Objective, objectives

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

__all__ = ["ClipRefine"]


@objectives.register("clip_refine")
class ClipRefine(Objective):
    """CLIP-Refine (Yamaguchi et al. 2025, arXiv 2504.12717): one epoch from pretrained weights.

    Random feature alignment: both features of a pair are drawn to one reference r_i ~ N(0, I), which its place in the data
    decides, L_R = mean_i (|u_i - r_i|^2 + |v_i - r_i|^2) / D. Hybrid contrastive distillation: the divergence L_D from the
    target alpha 1[i = j] + (1 - alpha) p_ij, where p is what the weights gave at the start, the mean of both directions.

    Args:
        alpha: share of the pairs in the target, in [0, 1].
        align: weight of L_R, >= 0.
    """

    training_parts = frozenset({"pretrained_teacher"})

    def __init__(self, alpha: float = 0.5, align: float = 1.0) -> None:
        super().__init__()
        in_range("clip_refine: alpha", alpha, 0, 1)
        in_range("clip_refine: align", align, 0)
        self.alpha, self.align = alpha, align

    def reads(self) -> tuple[str, ...]:
        return ("image", "text")

    def initial_temperature(self) -> Temperature:
        return Temperature()

    def build(self, space: SharedSpace) -> None:
        space.pretrained_teacher = Teacher(space, self.reads())

    def check_strategy(self, strategy: Strategy, space: SharedSpace) -> None:
        Teacher.check_strategy(strategy, "clip_refine")

    @torch.no_grad()
    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        teacher: Any = space.pretrained_teacher
        return {column: teacher.space.encode(column, batch.value(column)) for column in self.reads()}  # (B, D)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        parts, aligned = [], []
        reference = references(batch.index.tolist(), output.features["image"])  # (B, D)
        for rows, columns in (("image", "text"), ("text", "image")):
            every, offset = self.all_columns(output.features[columns])  # (N, D)
            told = output.scale.detach() * output.rows[rows] @ self.all_columns(output.rows[columns])[0].T  # (B, N)
            own = offset + torch.arange(batch.size, device=every.device)
            pair = told.new_full((batch.size, 1), self.alpha)
            target = ((1 - self.alpha) * told.softmax(dim=1)).scatter_add(1, own[:, None], pair)
            logs = log_softmax(output.scale * output.features[rows] @ every.T, dim=1)
            parts.append((xlogy(target, target) - target * logs).sum(dim=1))  # (B,)
            aligned.append((output.features[rows] - reference).square().mean(dim=1))
        distilled, alignment = self.mean(torch.stack(parts).mean(dim=0)), self.mean(torch.stack(aligned).sum(dim=0))
        return {"loss": distilled + self.align * alignment, "distilled": distilled, "alignment": alignment}

    def inherited(self) -> Any | None:
        return None


def references(places: Sequence[int], like: Tensor) -> Tensor:
    """Normal numbers (B, D), a row for each place in the data, the same however a batch is divided.

    Args:
        places: of the samples.
        like: features (B, D), for the width, type and device.
    """
    rows = [torch.randn(like.shape[1], generator=torch.Generator().manual_seed(place)) for place in places]
    return torch.stack(rows).to(like)
