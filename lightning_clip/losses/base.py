"""The loss seam: unit features and a scale arrive, a scalar leaves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from lightning_clip.errors import InputError
from lightning_clip.registry import Registry

__all__ = ["ContrastiveLoss", "check_features", "losses"]


class ContrastiveLoss(nn.Module, ABC):
    """A contrastive loss; it holds settings only, the learned scale and bias belong to `ClipModel`.

    While the loss is in training mode and several ranks run, rows are this rank's and columns are all ranks'.
    In evaluation mode it scores this rank's batch alone, so that ranks may hold different numbers of batches.

    Args:
        initial_scale: inverse temperature at the start, > 0.
        learn_scale: False keeps the scale where it starts.
        max_scale: the scale is clamped to at most this after each optimizer step.
        initial_bias: added to the logits, learned; None for losses without one.
    """

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
    def forward(self, image_features: Tensor, text_features: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        """Unit features (B, D) of both towers, scale (1,) or (), bias likewise or None -> loss ()."""


losses: Registry[ContrastiveLoss] = Registry("loss")


def check_features(image_features: Tensor, text_features: Tensor) -> None:
    """Refuses features that cannot be pairs.

    Raises:
        InputError: shapes differ, are not (B, D) or hold no pair, or the devices differ.
    """
    shapes = f"image_features {tuple(image_features.shape)} and text_features {tuple(text_features.shape)}"
    if image_features.ndim != 2 or text_features.ndim != 2:
        raise InputError(f"{shapes} must both be (B, D)")
    if image_features.shape[1] != text_features.shape[1]:
        raise InputError(f"{shapes} differ in width: give both projections the same embed_dim")
    if image_features.shape != text_features.shape:
        raise InputError(f"{shapes} are not pairs: row i of one must belong to row i of the other")
    if len(image_features) == 0:
        raise InputError(f"{shapes} hold no pair")
    if image_features.device != text_features.device:
        raise InputError(f"image_features are on {image_features.device}, text_features on {text_features.device}")
