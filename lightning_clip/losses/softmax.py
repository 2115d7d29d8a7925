"""The softmax contrastive loss (InfoNCE) of CLIP and ConVIRT."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_clip.errors import InputError
from lightning_clip.losses.base import ContrastiveLoss, check_features, losses
from lightning_clip.losses.gather import Gathered, gather_rows

__all__ = ["SoftmaxContrastiveLoss", "softmax_contrastive_loss"]


def softmax_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    image_weight: float = 0.5,
    all_image_features: Gathered | None = None,
    all_text_features: Gathered | None = None,
) -> Tensor:
    r"""Cross-entropy of each image against all texts and of each text against all images.

    .. math:: L = \frac{1}{N} \sum_i w \left(\log \sum_j e^{s u_i v_j} - s u_i v_i\right)
                                  + (1 - w) \left(\log \sum_j e^{s u_j v_i} - s u_i v_i\right)

    Source: Radford et al. 2021, Figure 3 (w = 1/2); Zhang et al. 2020, equation 4 (w = 3/4).

    Args:
        image_features: (B, D) of unit length.
        text_features: (B, D) of unit length; row i of both is pair i.
        scale: inverse temperature s, () or (1,).
        bias: added to all logits; a softmax does not feel it.
        image_weight: w in [0, 1], the share of the image-to-text direction.
        all_image_features: the image features of all ranks; None means there is one.
        all_text_features: the text features of all ranks.

    Returns:
        (), float32 for half-precision inputs. Over ranks its mean is the loss of the concatenated batch.
    """
    images = all_image_features or Gathered(image_features, 0, 1)
    texts = all_text_features or Gathered(text_features, 0, 1)
    dtype = torch.promote_types(image_features.dtype, torch.float32)
    target = torch.arange(len(image_features), device=image_features.device) + images.offset
    logits_per_image = (scale * image_features.to(dtype)) @ texts.rows.to(dtype).T
    logits_per_text = (scale * text_features.to(dtype)) @ images.rows.to(dtype).T
    if bias is not None:
        logits_per_image, logits_per_text = logits_per_image + bias, logits_per_text + bias
    image_to_text = cross_entropy(logits_per_image, target, reduction="sum")
    text_to_image = cross_entropy(logits_per_text, target, reduction="sum")
    total = image_weight * image_to_text + (1 - image_weight) * text_to_image
    return total * (images.world_size / len(images.rows))


@losses.register("softmax")
class SoftmaxContrastiveLoss(ContrastiveLoss):
    """CLIP's loss as settings of `softmax_contrastive_loss`.

    Args:
        image_weight: share of the image-to-text direction in [0, 1]; 0.5 in CLIP, 0.75 in ConVIRT.
        initial_scale: inverse temperature at the start, 1/0.07 in CLIP.
        learn_scale: False keeps it there.
        max_scale: bound of the learned scale, 100 in CLIP.

    Raises:
        InputError: a setting out of its range, or features that are not pairs.

    Examples:
        >>> features = torch.eye(3)
        >>> loss = SoftmaxContrastiveLoss()(features, features, torch.tensor([100.0]))
        >>> round(loss.item(), 4)
        0.0
    """

    def __init__(
        self,
        image_weight: float = 0.5,
        initial_scale: float = 1 / 0.07,
        learn_scale: bool = True,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(initial_scale, learn_scale, max_scale)
        if not 0 <= image_weight <= 1:
            raise InputError(f"image_weight {image_weight} must be in [0, 1]: the text-to-image direction gets the rest")
        self.image_weight = image_weight

    def forward(self, image_features: Tensor, text_features: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        check_features(image_features, text_features)
        gathered = (gather_rows(image_features), gather_rows(text_features)) if self.training else (None, None)
        return softmax_contrastive_loss(
            image_features,
            text_features,
            scale,
            bias,
            image_weight=self.image_weight,
            all_image_features=gathered[0],
            all_text_features=gathered[1],
        )
