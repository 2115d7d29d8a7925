"""Base class and registry of contrastive losses: from unit features and a scale to one number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from lightning_clip.core.distributed import AcrossRanks
from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.losses.checks import Positives

__all__ = ["ContrastiveLoss", "losses"]


class ContrastiveLoss(AcrossRanks, nn.Module, ABC):
    """A contrastive loss; it holds settings only, the learned scale and bias belong to `ClipModel`.

    While the loss is in training mode and several ranks run, rows are this rank's and columns are all ranks'.
    In evaluation mode it scores this rank's batch alone, so that ranks may hold different numbers of batches. A loss of your
    own gets this from `all_columns` and `mean`: with them, ranks equal one process on the concatenated batch.

    Args:
        initial_scale: inverse temperature at the start, > 0.
        learn_scale: False keeps the scale where it starts.
        max_scale: the scale is clamped to at most this after each optimizer step.
        initial_bias: added to the logits, learned; None for losses without one.

    Attributes:
        duplicates: True for a loss whose forward also takes `positives`, see `ClipModule.positives`.
        check_finite: False lets features with NaN pass, for a caller that looks at the loss itself.
        precision: of products of float32 features on CUDA, see `softmax_contrastive_loss`.
    """

    duplicates = False
    check_finite = True
    precision = "auto"

    def __init__(
        self,
        initial_scale: float = 1 / 0.07,
        learn_scale: bool = True,
        max_scale: float = 100.0,
        initial_bias: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < initial_scale <= max_scale or not math.isfinite(max_scale):
            raise InputError(f"initial_scale {initial_scale} must be in (0, max_scale], and max_scale is {max_scale}")
        self.initial_scale = initial_scale
        self.learn_scale = learn_scale
        self.max_scale = max_scale
        self.initial_bias = initial_bias

    @abstractmethod
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        positives: Positives | None = None,
    ) -> Tensor:
        """Unit features (B, D) of both towers, scale (1,) or (), bias likewise or None -> loss ().

        `positives` is handed over by keyword and only to a loss whose `duplicates` is True: int64 ids (B, K), equal where
        rows belong together. Other losses need not have the argument. The built-in losses also take the ids of images and
        those of texts apart, `(image_ids, text_ids)`, with features (N, D) and (M, D).
        """


losses: Registry[ContrastiveLoss] = Registry("loss")
