"""Masked prediction beside local crops: painted patches are told what the teacher sees there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.permutation import mix
from lightning_clip.encoders.prototypes import masked_patches, prototype_loss
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.silc import Silc, centre_of, teacher_of

__all__ = ["Tips"]


@objectives.register("tips")
class Tips(Silc):
    """The self-supervised terms of TIPS (Maninis et al. 2024, arXiv 2410.16512) and SigLIP 2: SILC's, and iBOT's for tokens.

    To SILC's term is added -mean_(patches p that are painted) sum_k softmax((h_T(x)_p - c') / 0.04)_k log softmax(h_S(x')_p
    / 0.1)_k, where x' is the image with a share of its patches painted grey and c' the moving mean over tokens.

    Args:
        prototypes: K.
        momentum: of the teacher, in [0, 1].
        crop: side of the local crop as a share of the image's, in (0, 1].
        masked: share of painted patches, in (0, 1).
    """

    def __init__(self, prototypes: int = 1024, momentum: float = 0.996, crop: float = 0.5, masked: float = 0.5) -> None:
        super().__init__(prototypes, momentum, crop)
        in_range("tips: masked", masked, 0, 1, open_low=True, open_high=True)
        self.masked = masked

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        found = super().rows(space, output, batch)
        if not found:
            return {}
        whole, head = teacher_of(space).space, space.prototypes
        seen: Any = batch.image  # pixels (B, 3, S, S)
        with torch.no_grad():
            told = whole.prototypes(whole.encode_with_tokens("image", seen)[1])  # (B, L, K)
        side = math.isqrt(told.shape[1])
        told = told[:, -side * side :]  # without class tokens
        steps = int(teacher_of(space).steps)
        painted, mask = masked_patches(seen, side, self.masked, [mix(place, steps) >> 1 for place in batch.index.tolist()])
        said = head(space.encode_with_tokens("image", painted)[1][:, -side * side :])  # type: ignore[operator]
        lost = prototype_loss(said, told, centre_of(space, 1)) * mask  # (B, L)
        return {**found, "masked": lost.sum(dim=1) / mask.sum(dim=1), "told_tokens": told.mean(dim=1)}
