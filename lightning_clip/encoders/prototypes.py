"""`PrototypeHead`: features to scores of prototypes, by which a student and its teacher are compared without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["PrototypeHead", "masked_patches", "prototype_loss"]


class PrototypeHead(nn.Module):
    """An MLP to unit vectors and their cosines with K prototypes (Caron et al. 2021, arXiv 2104.14294, appendix C).

    Args:
        width: W of the features.
        prototypes: K.
        hidden: width of the MLP.
        bottleneck: width of what is compared.

    Examples:
        >>> PrototypeHead(12, 32)(torch.randn(2, 5, 12)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, prototypes: int, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(..., W) -> cosines (..., K)."""
        return normalize(self.layers(features), dim=-1) @ normalize(self.prototypes.weight, dim=-1).T


def prototype_loss(said: Tensor, told: Tensor, centre: Tensor) -> Tensor:
    """Cross-entropy (...) of a student's scores of prototypes with its teacher's, which are centred and sharpened.

    Args:
        said: scores (..., K) of the student, at temperature 0.1.
        told: of the teacher, at temperature 0.04.
        centre: (K,), taken from them, so that no prototype wins always.

    Examples:
        >>> round(prototype_loss(torch.zeros(4), torch.zeros(4), torch.zeros(4)).item(), 4)  # log 4
        1.3863
    """
    target = ((told - centre) / 0.04).softmax(dim=-1)
    return -(target * (said / 0.1).log_softmax(dim=-1)).sum(dim=-1)


def masked_patches(image: Tensor, side: int, share: float, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images with a share of their patches painted grey, and which (B, side side), True where painted.

    Args:
        image: pixels uint8 (B, 3, S, S).
        side: patches in a row.
        share: of the patches, in (0, 1); at least one is painted.
        seeds: one an image, which decides its patches.
    """
    count = max(1, round(share * side * side))
    drawn = [torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))[:count] for seed in seeds]
    mask = torch.zeros(len(image), side * side, dtype=torch.bool).scatter_(1, torch.stack(drawn), True).to(image.device)
    size = image.shape[-1]
    places = torch.arange(size, device=image.device) * side // size  # (S,) the patch of each row and column
    painted = mask.view(-1, 1, side, side)[:, :, places][..., places]  # (B, 1, S, S)
    return torch.where(painted, torch.full_like(image, 127), image), mask
