"""A relevance map as people see it: the picture, bright where a text is seen and dim elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.applications.relevance import Relevance
from lightning_clip.applications.search.looking import small_picture

__all__ = ["lit"]

_SIDE = 448  # pixels, whatever the model's are
_GLOW = (255.0, 140.0, 0.0)
_DIM = 0.35  # of the brightness, where nothing is seen


def lit(found: Relevance, side: int = _SIDE) -> bytes:
    """A JPEG of the picture under its map.

    Args:
        found: of one text.
        side: of the JPEG in pixels.
    """
    picture = _enlarged(found.picture.float(), side)  # (3, S, S) -> (3, side, side)
    heat = _enlarged(found.maps()[:1], side)  # (1, side, side)
    heat = (heat / heat.max().clamp(min=1e-12)).clamp(0, 1)
    glow = torch.tensor(_GLOW).reshape(3, 1, 1)
    grey = picture.mean(dim=0, keepdim=True)  # (1, side, side)
    shown = (picture * heat + grey * (1 - heat)) * (_DIM + (1 - _DIM) * heat) * (1 - 0.35 * heat) + 0.35 * heat * glow
    return small_picture(shown.round().clamp(0, 255).to(torch.uint8), side)


def _enlarged(pixels: Tensor, side: int) -> Tensor:
    return interpolate(pixels[None], (side, side), mode="bicubic", align_corners=False)[0]
