"""Moving averages of the contrastive loss's normalisers: small batches that learn as large ones do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.build import Temperature
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective, objectives

__all__ = ["FastClip"]


@objectives.register("fastclip")
class FastClip(Objective):
    """FastCLIP's global contrastive loss with one learned temperature (Wei et al. 2024, arXiv 2407.01445, v3).

    With g_i = 1/(N-1) sum_(j != i) e^((u_i v_j - u_i v_i) / t) of a batch, and its moving average over the visits of sample i,
    U_i <- (1 - gamma) U_i + gamma g_i, L = 1/N sum_i t (log(eps + U_i) + rho), the mean of both directions, whose gradient
    takes that of g_i for that of U_i: a batch estimates the sum over all data. The averages are in the checkpoint.

    Args:
        gamma: share of the batch in the average, in (0, 1]; 1 is the loss of the batch alone.
        eps: added to the averages, > 0.
        rho: >= 0; holds the temperature t = 1 / s up.
        samples: of the training data; None reads it from the data. A checkpoint knows it.
    """

    training_parts = frozenset({"normalisers"})

    def __init__(self, gamma: float = 0.6, eps: float = 1e-8, rho: float = 6.5, samples: int | None = None) -> None:
        super().__init__()
        in_range("fastclip: gamma", gamma, 0, 1, open_low=True)
        in_range("fastclip: eps", eps, 0, open_low=True)
        in_range("fastclip: rho", rho, 0)
        self.gamma, self.eps, self.rho, self.samples = gamma, eps, rho, samples

    def reads(self) -> tuple[str, ...]:
        return ("image", "text")

    def initial_temperature(self) -> Temperature:
        return Temperature()

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        if self.samples is None and data is not None:
            self.samples = len(data.source("train"))

    def build(self, space: SharedSpace) -> None:
        if self.samples is None:
            raise InputError(
                "fastclip keeps a number for each sample of the training data: give samples, or train in a Trainer"
            )
        space.normalisers = nn.Module()
        space.normalisers.register_buffer("averages", torch.zeros(self.samples, 2))  # 0: not met yet

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """G of this rank's images and texts, and their averages after this visit, (B, 2) each."""
        images, texts = output.features["image"].float(), output.features["text"].float()
        own = (images * texts).sum(dim=1, keepdim=True)  # (B, 1)
        sums, total = [], 1
        for rows, others in ((images, texts), (texts, images)):
            columns = self.all_columns(others)[0]  # (N, D)
            sums.append((output.scale * (rows @ columns.T - own)).exp().sum(dim=1) - 1)
            total = len(columns)
        now = torch.stack(sums, dim=1) / max(1, total - 1)  # (B, 2)
        if not self.training:
            return {"now": now, "average": now}
        kept: Any = space.normalisers.averages  # type: ignore[union-attr]
        with torch.no_grad():
            before = kept[batch.index]
            average = torch.where(before == 0, now, (1 - self.gamma) * before + self.gamma * now)
            kept[self.all_columns(batch.index)[0]] = self.all_columns(average)[0].to(kept.dtype)  # those of all ranks, on all
        return {"now": now, "average": average}

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        held, temperature = self.eps + output.rows["average"].detach(), 1 / output.scale
        estimate = temperature.detach() * output.rows["now"] / held  # (B, 2); its value says nothing, its gradient all
        lost = temperature * (held.log() + self.rho) + estimate - estimate.detach()
        return {"loss": self.mean(lost.mean(dim=1))}

    def inherited(self) -> Any | None:
        return None
