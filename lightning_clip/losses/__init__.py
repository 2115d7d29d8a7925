"""Contrastive losses: pure functions of tensors, and small modules that hold their settings."""

from lightning_clip.losses.base import ContrastiveLoss, losses
from lightning_clip.losses.sigmoid import SigmoidContrastiveLoss, sigmoid_contrastive_loss
from lightning_clip.losses.softmax import SoftmaxContrastiveLoss, softmax_contrastive_loss
from lightning_clip.losses.targets import caption_ids

__all__ = [
    "ContrastiveLoss",
    "SigmoidContrastiveLoss",
    "SoftmaxContrastiveLoss",
    "caption_ids",
    "losses",
    "sigmoid_contrastive_loss",
    "softmax_contrastive_loss",
]
