"""Checks that features and ids fit together, before anything is ranked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = ["check_features", "check_ks", "check_pairing", "check_retrieval", "check_shapes"]

_CHECKED = 1 << 16  # rows at a time: a check makes copies


def check_retrieval(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int],
    image_index: Tensor | None,
    *,
    one_space: bool = True,
) -> Tensor:
    """The images' numbers (N,), if features and numbers fit together.

    Args:
        image_features: (N, D).
        text_features: (M, D).
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs.
        image_index: integers (N,), or None for 0 to N - 1.
        one_space: both must be of one width; False for scores (N, M) and (M, N) in their place.

    Raises:
        InputError: they do not fit together; see the other checks.
    """
    check_ks(ks)
    device = image_features.device
    text_image_index = text_image_index.to(device)
    index = torch.arange(len(image_features), device=device) if image_index is None else image_index.to(device)
    check_features("image", image_features, index)
    check_features("text", text_features, text_image_index)
    if one_space and image_features.shape[1] != text_features.shape[1]:
        raise InputError(
            f"query features are {image_features.shape[1]} wide and target features {text_features.shape[1]}: "
            "both must come from one shared space"
        )
    check_pairing(index, text_image_index)
    return index


def check_ks(ks: Sequence[int]) -> None:
    """Cut-offs: one or more, at least 1 each.

    Args:
        ks: of recall@k.

    Raises:
        InputError: none, or one below 1.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"ks {tuple(ks)} must be one or more cut-offs of at least 1, such as (1, 5, 10)")


def check_shapes(side: str, features: Tensor, ids: Tensor) -> None:
    """Rows of features with an id each.

    Args:
        side: of the features, for the error.
        features: (N, D).
        ids: integers (N,).

    Raises:
        InputError: other shapes, or ids that are no integers.
    """
    if features.ndim != 2 or ids.shape != features.shape[:1] or ids.is_floating_point():
        raise InputError(
            f"{side} features {tuple(features.shape)} and their ids {tuple(ids.shape)} of {ids.dtype} must be (N, D) "
            "and integers (N,): give one id per row"
        )


def check_features(side: str, features: Tensor, ids: Tensor) -> None:
    """Rows with ids, at least one, all finite.

    Args:
        side: of the features, for the error.
        features: (N, D).
        ids: integers (N,).

    Raises:
        InputError: other shapes, no row, or values that are not finite.
    """
    check_shapes(side, features, ids)
    if len(features) == 0:
        raise InputError(f"there are no {side} features to rank: give at least one image with a caption")
    if not all(torch.isfinite(part).all() for part in torch.split(features, _CHECKED)):
        raise InputError(f"{side} features hold NaN or infinite values: the model has diverged, check its loss and weights")


def check_pairing(image_index: Tensor, text_image_index: Tensor) -> None:
    """Each image once and with captions, each caption with an image.

    Args:
        image_index: integers (N,).
        text_image_index: integers (M,), the image of each caption.

    Raises:
        InputError: an image given twice or without captions, or a caption without its image.
    """
    images, times = torch.unique(image_index, return_counts=True)
    if (times > 1).any():
        raise InputError(
            f"image {images[times > 1][0].item()} was given {int(times.max())} times: evaluate each image once "
            "(a DistributedSampler pads its shares with repeats)"
        )
    silent = images[~torch.isin(images, text_image_index)]
    if len(silent):
        raise InputError(f"image {silent[0].item()} has no caption: omit it or give it at least one")
    stray = (~torch.isin(text_image_index, images)).nonzero().flatten()
    if len(stray):
        image = text_image_index[stray[0]].item()
        raise InputError(
            f"caption {stray[0].item()} belongs to image {image}, which is not given: add the image or omit the caption"
        )
