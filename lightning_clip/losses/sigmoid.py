"""The pairwise sigmoid loss of SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_clip.losses.base import ContrastiveLoss, losses
from lightning_clip.losses.checks import Positives, check_exchange, open_exchange
from lightning_clip.losses.cuda_choice import cuda_sigmoid
from lightning_clip.losses.exchange import Alone, Exchange
from lightning_clip.losses.sigmoid_matched import matched_sigmoid_loss
from lightning_clip.losses.sigmoid_tiles import SigmoidTiles
from lightning_clip.losses.targets import other_positives, sigmoid_positives
from lightning_clip.losses.tiling import check_tile_size, full_precision

__all__ = ["SigmoidContrastiveLoss", "sigmoid_contrastive_loss"]


def sigmoid_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    positives: Positives | None = None,
    exchange: Exchange | None = None,
    tile_size: int | None = None,
    precision: str = "auto",
) -> Tensor:
    r"""Binary cross-entropy of every image with every text: is this a pair?

    .. math:: L = \frac{1}{N} \sum_{i,j} \log\left(1 + e^{-z_{ij} (s u_i v_j + b)}\right),
              \quad z_{ij} = 1 \text{ if } i = j \text{ else } -1

    Source: Zhai et al. 2023, equation 1 and algorithm 1.
    Exact in tiles, forward and backward, with O(B d) memory: see `lightning_clip.losses.sigmoid_tiles`.

    Args:
        image_features: (B, D) of unit length, or (N, D) with ids of images and texts.
        text_features: (B, D) of unit length; row i of both is pair i. With ids of images and texts (M, D).
        scale: inverse temperature s, () or (1,).
        bias: b, () or (1,); None is 0.
        positives: int64 (B,) or (B, K), K <= 2: rows that agree in any column count as pairs of each other.
            `(image_ids, text_ids)`, (N,) or (N, K) and (M,) or (M, K): an image and a text count as a pair if they agree in
            any column and are not -1 there; the sum over all N x M is divided by N (`lightning_clip.losses.sigmoid_matched`).
        exchange: how the columns of all ranks come by; None means there is one rank.
        tile_size: rows and columns of a tile; None takes 1024.
        precision: of products of float32 features on CUDA: "float32", "bfloat16", "float16", or "auto", which rounds them under
            autocast alone; sums and logits are float32.

    Returns:
        (), float32 for half-precision inputs. Over ranks its mean is the loss of the concatenated batch.

    Raises:
        InputError: ids that do not fit the features, or match nothing; from backward, if a second derivative is asked for.
    """
    exchange = exchange or Alone(len(text_features), len(image_features))
    offset = torch.zeros_like(scale) if bias is None else bias
    if isinstance(positives, tuple | list):
        return matched_sigmoid_loss(image_features, text_features, scale, offset, positives, exchange, tile_size=tile_size)
    loss = cuda_sigmoid(image_features, text_features, scale, offset, exchange, precision) if tile_size is None else None
    if loss is None:
        loss = SigmoidTiles.apply(image_features, text_features, scale, offset, exchange, tile_size)  # type: ignore[no-untyped-call]
    assert loss is not None
    if positives is None:
        return loss
    with full_precision(image_features.device):
        images, texts = image_features.to(loss.dtype), text_features.to(loss.dtype)
        others = other_positives(images, texts, positives, exchange)
        added = sigmoid_positives(images, scale.to(loss.dtype), offset.to(loss.dtype), others)
        return loss + added * (exchange.world_size / exchange.total)


@losses.register("sigmoid")
class SigmoidContrastiveLoss(ContrastiveLoss):
    """SigLIP's loss as settings of `sigmoid_contrastive_loss`.

    Args:
        initial_scale: inverse temperature at the start, 10 in the paper.
        initial_bias: of the logits at the start; -10 in the paper, so that the many negatives start near zero loss.
        learn_scale: False keeps the scale where it starts.
        max_scale: the paper has no bound, this is a wide guard.
        duplicates: True counts equal captions and equal images of a batch as pairs too.
        exchange: "gather" brings all ranks' texts to each rank; "ring" passes them round, which needs less memory.
        tile_size: rows and columns of a tile; None chooses. It changes speed and memory only.

    Examples:
        >>> zeros = torch.zeros(4, 8)
        >>> loss = SigmoidContrastiveLoss()(zeros, zeros, torch.tensor([10.0]), torch.tensor([-10.0]))
        >>> round(loss.item(), 3)
        10.0
    """

    def __init__(
        self,
        initial_scale: float = 10.0,
        initial_bias: float = -10.0,
        *,
        learn_scale: bool = True,
        max_scale: float = 1000.0,
        duplicates: bool = False,
        exchange: str = "gather",
        tile_size: int | None = None,
    ) -> None:
        super().__init__(initial_scale, learn_scale, max_scale, initial_bias)
        check_tile_size(tile_size)
        self.duplicates, self.exchange, self.tile_size = duplicates, check_exchange(exchange), tile_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        positives: Positives | None = None,
    ) -> Tensor:
        """As the base class, loss ()."""
        return sigmoid_contrastive_loss(
            image_features,
            text_features,
            scale,
            bias,
            positives=positives,
            exchange=open_exchange(
                image_features,
                text_features,
                self.exchange,
                positives=positives,
                alone=not self.training,
                check_finite=self.check_finite,
            ),
            tile_size=self.tile_size,
            precision=self.precision,
        )
