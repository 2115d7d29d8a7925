"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of one image in the place of image and text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.objectives import Objective, objectives

__all__ = ["SimClr"]


@objectives.register("simclr")
class SimClr(Objective):
    """NT-Xent, the paper's equation 1: each view finds its other view among all views of all images.

    Both views pass through the image tower; the second one is made with `transform: {views: 2}`. The paper's head is an MLP
    (`towers: {image: {projection: mlp}}`), and what is used afterwards are the features before it.

    Args:
        temperature: of the similarities, > 0.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        in_range("simclr: temperature", temperature, 0, open_low=True)
        self.temperature = temperature

    def reads(self) -> tuple[str, ...]:
        return ("image", "view2")

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        views = torch.stack([output.features["image"], output.features["view2"]], dim=1)  # (B, 2, D)
        every, offset = self.all_columns(views.flatten(0, 1))  # (2N, D), the two views of an image side by side
        logits = views.flatten(0, 1).float() @ every.float().T / self.temperature  # (2B, 2N)
        own = offset + torch.arange(len(logits), device=logits.device)
        logits = logits.scatter(1, own[:, None], -torch.inf)  # a view is not among those it is compared with
        return {"loss": self.mean(cross_entropy(logits, own ^ 1, reduction="none"))}
