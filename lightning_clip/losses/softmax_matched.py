r"""The softmax loss of N images and M texts that match by ids, in tiles, with its gradient.

With the matches P(i) of image i and Q(j) of text j, and N' images and M' texts that have any,

.. math:: L = \frac{w}{N'} \sum_i \left(\log \sum_j e^{z_{ij}} - \frac{1}{|P(i)|} \sum_{j \in P(i)} z_{ij}\right)
              + \frac{1 - w}{M'} \sum_j \left(\log \sum_i e^{z_{ij}} - \frac{1}{|Q(j)|} \sum_{i \in Q(j)} z_{ij}\right)

where the outer sums run over these N' images and M' texts, the inner ones over all M texts and N images.

An image or text without a match is a negative of all texts or images, and has no term of its own. Log-sums and the matches that
are singled out (`lightning_clip.losses.matches`) are computed in tiles, the other matches and smoothing by sums of features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.matches import Matches, find_matches, summed_matches
from lightning_clip.losses.softmax_matched_tiles import MatchedSoftmaxTiles
from lightning_clip.losses.tiling import full_precision, wide

__all__ = ["matched_softmax_loss"]


def matched_softmax_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    ids: tuple[Tensor, Tensor],
    exchange: Exchange,
    *,
    image_weight: float = 0.5,
    label_smoothing: float = 0.0,
    tile_size: int | None = None,
) -> Tensor:
    """The loss () of this rank; its mean over ranks is that of the images and texts of all of them.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        scale: inverse temperature s, () or (1,).
        ids: int64 of images (N,) or (N, K) and texts (M,) or (M, K), see `find_matches`.
        exchange: how the columns of all ranks come by; images are its rows, texts its columns.
        image_weight: w in [0, 1], the share of the image-to-text direction.
        label_smoothing: share in [0, 1) of the target that is spread over all columns.
        tile_size: rows and columns of a tile; None keeps a small matrix whole.

    Raises:
        InputError: nothing matches; from backward, if a second derivative is asked for.
    """
    with full_precision(image_features.device):
        matches = find_matches(*ids, exchange)
        weights = _weights(matches, image_weight, exchange.world_size, image_features.device)
        loss: Tensor = MatchedSoftmaxTiles.apply(  # type: ignore[no-untyped-call]
            image_features, text_features, scale, exchange, matches, weights, 1 - label_smoothing, tile_size
        )
        wide_scale, added = scale.to(weights[0].dtype), weights[0].new_zeros(())
        if matches.groups:
            linear = _beyond(image_features, text_features, matches, weights, exchange)
            added = added - (1 - label_smoothing) * (wide_scale * linear).sum()
        if label_smoothing:
            linear = _uniform(image_features, text_features, weights, exchange)
            added = added - label_smoothing * (wide_scale * linear).sum()
        return loss + added.to(loss.dtype)


def _weights(matches: Matches, image_weight: float, world_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each image (N,) and text (M,) of this rank in its loss, 0 without a match."""
    shares = (image_weight * world_size, (1 - image_weight) * world_size)
    sides = zip(shares, (matches.images, matches.texts), strict=True)
    image, text = (share * (side.matches > 0).to(wide(device)) / side.total for share, side in sides)
    return image, text


def _beyond(images: Tensor, texts: Tensor, matches: Matches, weights: tuple[Tensor, Tensor], exchange: Exchange) -> Tensor:
    """The weighted sum () of the mean cosine with all matches, over rows whose matches are not all singled out."""
    total = weights[0].new_zeros(())
    turned = [group.turned() for group in matches.groups]
    directions = (
        (images, texts, matches.images, matches.texts, matches.groups, weights[0]),
        (texts, images, matches.texts, matches.images, turned, weights[1]),
    )
    for own, others, side, other, groups, weight in directions:
        rows, sums = summed_matches(others, side, other, groups, exchange)
        share = weight[rows] / side.matches[rows]  # (R,)
        total = total + (own[rows].to(sums.dtype) * sums * share[:, None]).sum()
    return total


def _uniform(images: Tensor, texts: Tensor, weights: tuple[Tensor, Tensor], exchange: Exchange) -> Tensor:
    """The weighted sum () of the mean cosine with all columns, over the rows of both directions."""
    high = weights[0].dtype
    image, text = images.to(high), texts.to(high)
    every_image, every_text = exchange.total_of(torch.stack([image.sum(dim=0), text.sum(dim=0)]))  # (D,) each
    to_text = (weights[0] @ image) @ every_text / exchange.total
    to_image = (weights[1] @ text) @ every_image / exchange.total_rows
    uniform: Tensor = to_text + to_image
    return uniform
