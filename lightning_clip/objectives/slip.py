"""Self-supervision of images beside their pairs with texts: two further views that must find each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective, objectives

__all__ = ["Slip"]


@objectives.register("slip")
class Slip(Objective):
    """The self-supervised term of SLIP (Mu et al. 2021, arXiv 2112.12750): SimCLR on two views, with a head of its own.

    Each view finds the other of its image among the 2N views of all ranks, by the cosines of the tower's features behind an
    MLP: -mean log(e^(z_i z_k / t) / sum_(j != i) e^(z_i z_j / t)). The views are "view2" and "view3" of
    `transform: {views: 3}`. Stands beside pairs, [{name: pairs}, {name: slip, weight: 1.0}].

    Args:
        temperature: t > 0.
        hidden: width of the MLP.
        width: of what is compared.
    """

    training_parts = frozenset({"view_head"})
    evaluated = False

    def __init__(self, temperature: float = 0.1, hidden: int = 512, width: int = 128) -> None:
        super().__init__()
        in_range("slip: temperature", temperature, 0, open_low=True)
        self.temperature, self.hidden, self.width = temperature, hidden, width

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def takes(self) -> tuple[str, ...]:
        return ("view2", "view3")

    def build(self, space: SharedSpace) -> None:
        layers = (nn.Linear(space.tower("image").output_dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, self.width))
        space.view_head = nn.Sequential(*layers)

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        if not self.training:
            return {}
        head: Any = space.view_head
        views = [head(space.image_backbone(batch.columns[name])) for name in self.takes()]
        return {"views": normalize(torch.stack(views, dim=1), dim=-1)}  # (B, 2, D)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        own = output.rows["views"].flatten(0, 1).float()  # (2B, D), the two views of an image side by side
        every, offset = self.all_columns(own)  # (2N, D)
        place = offset + torch.arange(len(own), device=own.device)
        logits = (own @ every.T / self.temperature).scatter(1, place[:, None], -torch.inf)  # a view is not its own partner
        return {"loss": self.mean(cross_entropy(logits, place ^ 1, reduction="none"))}

    def inherited(self) -> Any | None:
        return None
