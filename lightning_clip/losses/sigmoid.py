"""The pairwise sigmoid loss of SigLIP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.base import ContrastiveLoss, check_features, losses
from lightning_clip.losses.gather import Gathered, gather_rows

__all__ = ["SigmoidContrastiveLoss", "sigmoid_contrastive_loss"]


def sigmoid_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    all_text_features: Gathered | None = None,
) -> Tensor:
    r"""Binary cross-entropy of every image with every text: is this a pair?

    .. math:: L = \frac{1}{N} \sum_{i,j} \log\left(1 + e^{-z_{ij} (s u_i v_j + b)}\right),
              \quad z_{ij} = 1 \text{ if } i = j \text{ else } -1

    Source: Zhai et al. 2023, equation 1 and algorithm 1.

    Args:
        image_features: (B, D) of unit length.
        text_features: (B, D) of unit length; row i of both is pair i.
        scale: inverse temperature s, () or (1,).
        bias: b, () or (1,); None is 0.
        all_text_features: the text features of all ranks; None means there is one.

    Returns:
        (), float32 for half-precision inputs. Over ranks its mean is the loss of the concatenated batch.
    """
    texts = all_text_features or Gathered(text_features, 0, 1)
    dtype = torch.promote_types(image_features.dtype, torch.float32)
    logits = (scale * image_features.to(dtype)) @ texts.rows.to(dtype).T
    if bias is not None:
        logits = logits + bias
    # -z * logits: negatives keep their sign, the pairs on this rank's diagonal change it.
    signed = logits.clone()
    signed.diagonal(texts.offset).neg_()
    return softplus(signed).sum() * (texts.world_size / len(texts.rows))


@losses.register("sigmoid")
class SigmoidContrastiveLoss(ContrastiveLoss):
    """SigLIP's loss as settings of `sigmoid_contrastive_loss`.

    Args:
        initial_scale: inverse temperature at the start, 10 in the paper.
        initial_bias: of the logits at the start; -10 in the paper, so that the many negatives start near zero loss.
        learn_scale: False keeps the scale where it starts.
        max_scale: the paper has no bound, this is a wide guard.

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
        learn_scale: bool = True,
        max_scale: float = 1000.0,
    ) -> None:
        super().__init__(initial_scale, learn_scale, max_scale, initial_bias)

    def forward(self, image_features: Tensor, text_features: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        check_features(image_features, text_features)
        gathered = gather_rows(text_features) if self.training else None
        return sigmoid_contrastive_loss(image_features, text_features, scale, bias, all_text_features=gathered)
