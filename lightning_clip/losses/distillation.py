"""Distillation losses between the features of a student and of a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint

from lightning_clip.core.distributed import AcrossRanks
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.losses.tiling import full_precision

__all__ = ["DISTANCES", "feature_distance", "relational_kl"]

DISTANCES = ("mse", "cosine")


def relational_kl(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_scale: float,
    *,
    alone: bool = False,
    rows_at_once: int = 1024,
) -> Tensor:
    r"""How the student relates the images and texts of a batch to each other, beside how the teacher does.

    .. math:: L = \frac{1}{2N} \sum_i \mathrm{KL}\left(\sigma(t\, x_i Y^T) \,\|\, \sigma(s\, u_i V^T)\right)
                  + \mathrm{KL}\left(\sigma(t\, y_i X^T) \,\|\, \sigma(s\, v_i U^T)\right)

    with the softmax :math:`\sigma` over all N columns, features X, Y and inverse temperature t of the teacher, U, V and s of
    the student: affinity mimicking as in TinyCLIP (Wu et al. 2023, arXiv 2309.12314) and the distillation loss of MobileCLIP
    (Vasu et al. 2024, arXiv 2311.17049). Widths may differ. A bias of the teacher's logits falls out of the softmax.

    While several ranks run, rows are this rank's and columns are all ranks'. Memory grows with `rows_at_once` times N.

    Args:
        image_features: student's, unit, (B, D).
        text_features: student's, unit, (B, D).
        scale: student's inverse temperature, (1,) or ().
        teacher_image: unit, (B, D_t).
        teacher_text: unit, (B, D_t).
        teacher_scale: its inverse temperature.
        alone: this rank by itself, as in evaluation.
        rows_at_once: rows whose logits are in memory at a time; it changes nothing else.

    Returns:
        (), at least 0. Over ranks its mean is the loss of the concatenated batch.
    """
    with full_precision(image_features.device):
        dtype = image_features.dtype if image_features.dtype == torch.float64 else torch.float32
        own = [value.to(dtype) for value in (image_features, text_features)]
        taught = [value.to(dtype).detach() for value in (teacher_image, teacher_text)]
        ranks = _ranks(alone)
        images, texts, teacher_images, teacher_texts = (ranks.all_columns(value)[0] for value in (*own, *taught))  # -> (N, D)
        options = (scale.to(dtype), teacher_scale, rows_at_once)
        to_text = _rows_kl(own[0], texts, taught[0], teacher_texts, *options)  # (B,)
        to_image = _rows_kl(own[1], images, taught[1], teacher_images, *options)  # (B,)
        return ranks.mean(to_text + to_image) / 2


def feature_distance(features: Tensor, teacher: Tensor, kind: str = "mse") -> Tensor:
    """How far each row is from the teacher's: |f - t|^2 ("mse") or 1 - cos(f, t) ("cosine").

    Args:
        features: the student's, brought to the teacher's width, (B, D_t).
        teacher: unit, (B, D_t).
        kind: of `DISTANCES`.

    Returns:
        (B,), float32.

    Raises:
        InputError: another kind.

    Examples:
        >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> feature_distance(one, other, "mse"), feature_distance(one, other, "cosine")
        (tensor([2.]), tensor([1.]))
    """
    if kind not in DISTANCES:
        raise InputError(f"unknown distance {kind!r}: {nearest(kind, DISTANCES)}")
    with full_precision(features.device):
        own, target = features.float(), teacher.float().detach()
        if kind == "mse":
            return (own - target).pow(2).sum(dim=1)  # (B, D_t) -> (B,)
        return 1 - torch.cosine_similarity(own, target, dim=1)


def _ranks(alone: bool) -> AcrossRanks:
    ranks = AcrossRanks()
    ranks.training = not alone
    return ranks


def _rows_kl(
    rows: Tensor, columns: Tensor, taught: Tensor, taught_columns: Tensor, scale: Tensor, teacher_scale: float, at_once: int
) -> Tensor:
    """Of each row (B,); logits are computed again when the gradient comes back where there are many rows."""

    def block(part: Tensor, taught_part: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
        own = log_softmax(scale * (part @ columns.T), dim=1)
        target = log_softmax(teacher_scale * (taught_part @ taught_columns.T), dim=1)
        return (target.exp() * (target - own)).sum(dim=1)  # (B', N) -> (B',)

    if len(rows) <= at_once:
        return block(rows, taught, columns, scale)
    parts = zip(torch.split(rows, at_once), torch.split(taught, at_once), strict=True)
    return torch.cat([checkpoint(block, part, taught_part, columns, scale, use_reentrant=False) for part, taught_part in parts])
