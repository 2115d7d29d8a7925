"""Refinement of coarse maps by the picture itself: places of like colours near each other share what they have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_clip.core.settings import in_range

__all__ = ["refined"]

_SHARPNESS = 0.1  # of the deviation of colours around a pixel: what differs by more counts little
_AROUND = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1) if (down, across) != (0, 0)]


def refined(maps: Tensor, picture: Tensor, steps: int = 10, dilations: Sequence[int] = (1, 2, 4, 8)) -> Tensor:
    r"""Maps of numbers that follow the edges of a picture (PAMR of Araslanov & Roth 2020, arXiv 2005.08104, equations 2 and 3).

    In each step a pixel takes the mean of its neighbours, weighed by how alike their colours are:

    .. math:: m_i \leftarrow \sum_j w_{ij} m_j, \quad
        w_{ij} = \operatorname{softmax}_j\Bigl(-\tfrac13 \sum_c \frac{|x_{ic} - x_{jc}|}{0.1\, \sigma_{ic}}\Bigr)

    with :math:`\sigma` the deviation of colour c among pixel i and its neighbours, eight at each of several distances.
    Nothing is learned.

    Args:
        maps: float (C, H, W).
        picture: uint8 (3, H, W).
        steps: at least 0, which changes nothing.
        dilations: distances of neighbours in pixels, each at least 1.

    Raises:
        InputError: a setting out of range.

    Examples:
        >>> picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> picture[:, :, 4:] = 255
        >>> coarse = torch.linspace(0, 1, 8).expand(1, 8, 8)
        >>> [round(value, 1) for value in refined(coarse, picture)[0, 4, 3:5].tolist()]
        [0.1, 0.9]
    """
    in_range("refining steps", steps, 0, whole=True)
    for distance in dilations:
        in_range("refining dilations", distance, 1, whole=True)
    if steps == 0:
        return maps
    colours = picture.to(maps.device).float() / 255
    near = _neighbours(colours, dilations)  # (3, P, H, W)
    own = colours[:, None]
    spread = torch.cat([own, near], dim=1).std(dim=1, keepdim=True)  # (3, 1, H, W)
    weights = (-(near - own).abs() / (_SHARPNESS * spread + 1e-8)).mean(dim=0).softmax(dim=0)  # (3, P, H, W) -> (P, H, W)
    found = []
    for single in maps:  # one by one: all neighbours of many maps would not fit into memory
        for _ in range(steps):
            single = (weights * _neighbours(single[None], dilations)[0]).sum(dim=0)  # (P, H, W) -> (H, W)
        found.append(single)
    return torch.stack(found)


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Tensor:
    """(C, H, W) -> (C, P, H, W): eight neighbours at each distance, at the edges the nearest pixel there is."""
    height, width = maps.shape[-2:]
    margin = max(dilations)
    wide = pad(maps[None], (margin,) * 4, mode="replicate")[0]  # (C, H + 2 m, W + 2 m)
    starts = [(margin + distance * down, margin + distance * across) for distance in dilations for down, across in _AROUND]
    return torch.stack([wide[:, top : top + height, left : left + width] for top, left in starts], dim=1)
