"""The loss seam: unit features and a scale arrive, a scalar leaves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_clip.core.distributed import AcrossRanks, agree, world
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.registry import Registry
from lightning_clip.losses.exchange import Alone, Exchange, Gather, Ring

__all__ = ["ContrastiveLoss", "check_exchange", "check_features", "losses", "open_exchange"]

_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    """

    duplicates = False
    check_finite = True

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
        positives: Tensor | None = None,
    ) -> Tensor:
        """Unit features (B, D) of both towers, scale (1,) or (), bias likewise or None -> loss ().

        `positives` is handed over by keyword and only to a loss whose `duplicates` is True: int64 ids (B, K), equal where
        rows belong together. Other losses need not have the argument.
        """


losses: Registry[ContrastiveLoss] = Registry("loss")


def check_exchange(kind: str) -> str:
    """Hands back "gather" or "ring".

    Raises:
        InputError: another word.
    """
    if kind not in ("gather", "ring"):
        raise InputError(f"unknown exchange {kind!r}: {nearest(kind, ('gather', 'ring'))}")
    return kind


def check_features(image_features: Tensor, text_features: Tensor, check_finite: bool = True) -> None:
    """Refuses features that cannot be pairs.

    Raises:
        InputError: shapes, types or devices differ, they are not (B, D), hold no pair, or hold infinities or NaN (looked
            for on the CPU only: on an accelerator it would wait for the device, see `ExecutionSettings.non_finite`).
    """
    problem = _problem(image_features, text_features, check_finite)
    if problem:
        raise InputError(problem)


def open_exchange(
    image_features: Tensor, text_features: Tensor, kind: str, *, alone: bool = False, check_finite: bool = True
) -> Exchange:
    """Checks the features of all ranks and says how they meet; what is wrong on one rank is raised on all of them.

    Args:
        image_features: (B, D) of this rank.
        text_features: (B, D) of this rank; ranks may bring different B.
        kind: "gather" or "ring".
        alone: this rank by itself, as in evaluation.
        check_finite: whether to look for NaN.

    Raises:
        InputError: see `check_features`, or ranks whose width or type differ.
    """
    rank, world_size = world()
    if alone or world_size == 1:
        check_features(image_features, text_features, check_finite)
        return Alone(len(image_features))
    width = image_features.shape[-1] if image_features.ndim else 0
    header = [len(image_features) if image_features.ndim else 0, width, _TYPES.index(image_features.dtype)]
    headers = agree(_problem(image_features, text_features, check_finite), header, image_features.device)
    if len({tuple(found[1:]) for found in headers}) > 1:
        listing = ", ".join(f"rank {place} (B, {found[1]}) {_TYPES[found[2]]}" for place, found in enumerate(headers))
        raise InputError(f"the ranks' features differ in width or type: {listing}. Build the same model on every rank.")
    return (Ring if kind == "ring" else Gather)([found[0] for found in headers], rank)


def _problem(image_features: Tensor, text_features: Tensor, check_finite: bool) -> str | None:
    shapes = f"image_features {tuple(image_features.shape)} and text_features {tuple(text_features.shape)}"
    if image_features.ndim != 2 or text_features.ndim != 2:
        return f"{shapes} must both be (B, D)"
    if image_features.shape[1] != text_features.shape[1]:
        return f"{shapes} differ in width: give both projections the same embed_dim"
    if image_features.shape != text_features.shape:
        return f"{shapes} are not pairs: row i of one must belong to row i of the other"
    if len(image_features) == 0:
        return f"{shapes} hold no pair"
    if image_features.device != text_features.device:
        return f"image_features are on {image_features.device}, text_features on {text_features.device}: move one of them"
    if image_features.dtype != text_features.dtype or image_features.dtype not in _TYPES:
        types = f"image_features are {image_features.dtype}, text_features {text_features.dtype}"
        return f"{types}: both must have the same type, one of {', '.join(map(str, _TYPES))}"
    for name, features in (("image_features", image_features), ("text_features", text_features)):
        # The sum is finite unless a value is not: one pass, nothing stored.
        if check_finite and features.device.type == "cpu" and not features.detach().sum(dtype=torch.float32).isfinite():
            bad = int((~features.detach().isfinite()).any(dim=1).sum())
            return (
                f"{name} {tuple(features.shape)} hold NaN or infinity in {bad} rows: lower the learning rate, clip gradients "
                "(trainer.gradient_clip_val), or set execution.non_finite to 'skip'"
            )
    return None
