"""The softmax contrastive loss (InfoNCE) of CLIP and ConVIRT."""

from __future__ import annotations

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.losses.base import ContrastiveLoss, losses
from lightning_clip.losses.checks import Positives, check_exchange, open_exchange
from lightning_clip.losses.cuda_choice import cuda_softmax
from lightning_clip.losses.exchange import Alone, Exchange
from lightning_clip.losses.softmax_matched import matched_softmax_loss
from lightning_clip.losses.softmax_tiles import SoftmaxTiles
from lightning_clip.losses.targets import other_positives, softmax_positives, softmax_smoothing
from lightning_clip.losses.tiling import check_tile_size, full_precision

__all__ = ["SoftmaxContrastiveLoss", "softmax_contrastive_loss"]


def softmax_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    *,
    image_weight: float = 0.5,
    positives: Positives | None = None,
    label_smoothing: float = 0.0,
    exchange: Exchange | None = None,
    tile_size: int | None = None,
    precision: str = "auto",
) -> Tensor:
    r"""Cross-entropy of each image against all texts and of each text against all images.

    .. math:: L = \frac{1}{N} \sum_i w \left(\log \sum_j e^{s u_i v_j} - s u_i v_i\right)
                                  + (1 - w) \left(\log \sum_j e^{s u_j v_i} - s u_i v_i\right)

    Source: Radford et al. 2021, Figure 3 (w = 1/2); Zhang et al. 2020, equation 4 (w = 3/4).
    Exact in tiles, forward and backward, with O(B d) memory: see `lightning_clip.losses.softmax_tiles`.

    Args:
        image_features: (B, D) of unit length, or (N, D) with ids of images and texts.
        text_features: (B, D) of unit length; row i of both is pair i. With ids of images and texts (M, D).
        scale: inverse temperature s, () or (1,).
        image_weight: w in [0, 1], the share of the image-to-text direction.
        positives: int64 (B,) or (B, K), K <= 2: rows that agree in any column are positives of each other, and a row's
            target is spread evenly over its positives (Khosla et al. 2020, equation 2). None: each row has its own pair.
            `(image_ids, text_ids)`, (N,) or (N, K) and (M,) or (M, K): an image and a text match if they agree in any column
            and are not -1 there. Each direction is the mean over the rows that have a match; an image or text without one is
            a negative of all others (`lightning_clip.losses.softmax_matched`).
        label_smoothing: share in [0, 1) of the target that is spread over all N columns.
        exchange: how the columns of all ranks come by; None means there is one rank.
        tile_size: rows and columns of a tile; None keeps a small matrix whole, which is faster, and tiles a large one.
        precision: of products of float32 features on CUDA: "float32", "bfloat16", "float16", or "auto", which rounds them under
            autocast alone; sums and logits are float32.

    Returns:
        (), float32 for half-precision inputs. Over ranks its mean is the loss of the concatenated batch.

    Raises:
        InputError: ids that do not fit the features, or match nothing; from backward, if a second derivative is asked for.
    """
    exchange = exchange or Alone(len(text_features), len(image_features))
    if isinstance(positives, tuple | list):
        options = {"image_weight": image_weight, "label_smoothing": label_smoothing}
        return matched_softmax_loss(image_features, text_features, scale, positives, exchange, tile_size=tile_size, **options)
    loss = cuda_softmax(image_features, text_features, scale, exchange, image_weight, precision) if tile_size is None else None
    if loss is None:
        loss = SoftmaxTiles.apply(image_features, text_features, scale, exchange, image_weight, tile_size)  # type: ignore[no-untyped-call]
    assert loss is not None
    if positives is None and not label_smoothing:
        return loss
    with full_precision(image_features.device):
        images, texts, scale = (value.to(loss.dtype) for value in (image_features, text_features, scale))
        added = loss.new_zeros(())
        if positives is not None:
            others = other_positives(images, texts, positives, exchange)
            added = (1 - label_smoothing) * softmax_positives(images, texts, scale, others, image_weight)
        if label_smoothing:
            added = added + label_smoothing * softmax_smoothing(images, texts, scale, exchange)
        return loss + added * (exchange.world_size / exchange.total)


@losses.register("softmax")
class SoftmaxContrastiveLoss(ContrastiveLoss):
    """CLIP's loss as settings of `softmax_contrastive_loss`.

    Args:
        image_weight: share of the image-to-text direction in [0, 1]; 0.5 in CLIP, 0.75 in ConVIRT.
        initial_scale: inverse temperature at the start, 1/0.07 in CLIP.
        learn_scale: False keeps it there.
        max_scale: bound of the learned scale, 100 in CLIP.
        duplicates: True counts equal captions and equal images of a batch as positives instead of false negatives.
        label_smoothing: share in [0, 1) of the target that is spread over all pairs.
        exchange: "gather" brings all ranks' texts to each rank; "ring" passes them round, which needs less memory.
        tile_size: rows and columns of a tile; None chooses by size. It changes speed and memory only.

    Raises:
        InputError: a setting out of its range, or features that are not pairs.

    Examples:
        >>> import torch
        >>> features = torch.eye(3)
        >>> loss = SoftmaxContrastiveLoss()(features, features, torch.tensor([100.0]))
        >>> round(loss.item(), 4)
        0.0

        Three images, their captions in another order, and a fourth text that belongs to nobody:

        >>> texts, text_ids = torch.eye(4, 3)[[2, 0, 1, 3]], torch.tensor([2, 0, 1, -1])
        >>> loss = SoftmaxContrastiveLoss()(features, texts, torch.tensor([100.0]), positives=(torch.arange(3), text_ids))
        >>> round(loss.item(), 4)
        0.0
    """

    def __init__(
        self,
        image_weight: float = 0.5,
        initial_scale: float = 1 / 0.07,
        *,
        learn_scale: bool = True,
        max_scale: float = 100.0,
        duplicates: bool = False,
        label_smoothing: float = 0.0,
        exchange: str = "gather",
        tile_size: int | None = None,
    ) -> None:
        super().__init__(initial_scale, learn_scale, max_scale)
        if not 0 <= image_weight <= 1:
            raise InputError(f"image_weight {image_weight} must be in [0, 1]: the text-to-image direction gets the rest")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing {label_smoothing} must be in [0, 1): the pairs get the rest")
        check_tile_size(tile_size)
        self.image_weight, self.label_smoothing, self.duplicates = image_weight, label_smoothing, duplicates
        self.exchange, self.tile_size = check_exchange(exchange), tile_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        positives: Positives | None = None,
    ) -> Tensor:
        """As the base class, loss (); a softmax does not feel a bias."""
        return softmax_contrastive_loss(
            image_features,
            text_features,
            scale,
            image_weight=self.image_weight,
            positives=positives,
            label_smoothing=self.label_smoothing,
            exchange=open_exchange(
                image_features,
                text_features,
                self.exchange,
                positives=positives,
                alone=not self.training,
                check_finite=self.check_finite,
                norms=True,
            ),
            tile_size=self.tile_size,
            precision=self.precision,
        )
