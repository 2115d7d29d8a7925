"""A teacher that is the moving average of the image tower: local crops are told what it sees of the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_clip.core.distributed import mean_over_ranks
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.encoders.prototypes import PrototypeHead, prototype_loss
from lightning_clip.model.space import SharedSpace
from lightning_clip.model.teacher import Teacher
from lightning_clip.objectives.base import Objective, objectives

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

__all__ = ["Silc", "centre_of", "teacher_of"]
_CENTRING = 0.9  # share of the former centre


@objectives.register("silc")
class Silc(Objective):
    """The local-to-global term of SILC (Naeem et al. 2023, arXiv 2310.13355), beside pairs.

    With scores of prototypes h: -mean sum_k softmax((h_T(x) - c) / 0.04)_k log softmax(h_S(crop) / 0.1)_k, where T <- m T +
    (1 - m) S after each step and c is the moving mean of h_T. The crop is the middle of "view2"; `transform: {views: 2}`.

    Args:
        prototypes: K.
        momentum: m, in [0, 1].
        crop: side of the local crop as a share of the image's, in (0, 1].
    """

    training_parts = frozenset({"prototypes", "teacher"})
    evaluated = False

    def __init__(self, prototypes: int = 1024, momentum: float = 0.996, crop: float = 0.5) -> None:
        super().__init__()
        in_range("silc: prototypes", prototypes, 2, whole=True)
        in_range("silc: momentum", momentum, 0, 1)
        in_range("silc: crop", crop, 0, 1, open_low=True)
        self.prototypes, self.momentum, self.crop = prototypes, momentum, crop

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def takes(self) -> tuple[str, ...]:
        return ("view2",)

    def build(self, space: SharedSpace) -> None:
        tower = space.tower("image")
        if self.crop < 1:
            tower.take_sizes()
        space.prototypes = PrototypeHead(tower.output_dim, self.prototypes)
        space.teacher = Teacher(space, ["image"], ["prototypes"])
        space.teacher.register_buffer("centres", torch.zeros(2, self.prototypes))  # of images and of tokens
        space.teacher.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def check_strategy(self, strategy: Strategy, space: SharedSpace) -> None:
        Teacher.check_strategy(strategy, "silc")

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        if not self.training:
            return {}
        whole: Any = teacher_of(space).space
        seen: Any = batch.image  # pixels (B, 3, S, S)
        side = round(self.crop * seen.shape[-1])
        at = (seen.shape[-1] - side) // 2
        local = batch.columns["view2"][..., at : at + side, at : at + side]  # (B, 3, S, S) -> (B, 3, s, s)
        with torch.no_grad():
            told = whole.prototypes(whole.image_backbone(seen))  # (B, K)
        said = space.prototypes(space.image_backbone(local))  # type: ignore[operator]  # (B, K)
        return {"told": told, "local": prototype_loss(said, told, centre_of(space, 0))}

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        parts = {name: self.mean(output.rows[name]) for name in ("local", "masked") if name in output.rows}
        told = [output.rows[name].sum(dim=0) for name in ("told", "told_tokens") if name in output.rows]  # (K,) each
        sums = mean_over_ranks(torch.cat([*told, told[0].new_full((1,), batch.size)]))
        self._means = (sums[:-1] / sums[-1]).view(len(told), -1)  # of all ranks' rows
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def after_step(self, space: SharedSpace) -> None:
        teacher = teacher_of(space)
        teacher.follow(space, self.momentum)
        teacher.centres[: len(self._means)].mul_(_CENTRING).add_(self._means, alpha=1 - _CENTRING)
        teacher.steps += 1

    def inherited(self) -> Any | None:
        return None


def teacher_of(space: SharedSpace) -> Any:
    """The teacher among a model's parts."""
    return space.teacher


def centre_of(space: SharedSpace, kind: int) -> Tensor:
    """The moving mean (K,) of the teacher's scores of images (0) or of tokens (1)."""
    return teacher_of(space).centres[kind]  # type: ignore[no-any-return]
