"""Pictures with what a model says of their places laid over: named areas with a legend, and heat."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from lightning_clip.reporting.colours import in_colour
from lightning_clip.reporting.letters import literal

__all__ = ["area_figure", "class_colours", "heat_figure", "heated"]

_WIDTH = 4.2  # inches of a picture


def class_colours(count: int) -> list[tuple[float, float, float]]:
    """So many colours that neighbours in the list are told apart, each from 0 to 1.

    Examples:
        >>> len(set(class_colours(255)))
        255
    """
    golden = 0.61803398875  # steps round the circle of hues that never come back
    return [colorsys.hsv_to_rgb((number * golden) % 1, (0.85, 0.6)[number // 8 % 2], 0.95) for number in range(count)]


def area_figure(image: Tensor, labels: Tensor, names: Sequence[str], *, most: int = 12) -> Figure:
    """A picture, and beside it the same with its areas coloured; a legend has the names, the largest areas first.

    Args:
        image: uint8 (3, H, W).
        labels: int (H, W), indices of `names`; others are left as they are.
        names: C of them.
        most: names in the legend.
    """
    height, width = labels.shape
    found = labels.numpy()
    colours = np.array(class_colours(len(names)))
    cover = np.zeros((height, width, 4))
    inside = (found >= 0) & (found < len(names))
    cover[inside, :3], cover[inside, 3] = colours[found[inside]], 0.6
    figure = Figure(figsize=(2 * _WIDTH + 1.8, max(1.5, _WIDTH * height / width)), layout="constrained")
    plain, covered = figure.subplots(1, 2)
    for axes in (plain, covered):
        axes.set_axis_off()
        axes.imshow(in_colour(image))
    covered.imshow(cover, interpolation="nearest")
    sizes = np.bincount(found[inside], minlength=len(names))
    order = [int(index) for index in np.argsort(-sizes, kind="stable") if sizes[index]]
    shares = {index: 100 * sizes[index] / found.size for index in order[:most]}
    patches = [Patch(color=colours[index], label=f"{literal(names[index])}  {share:.0f} %") for index, share in shares.items()]
    if patches:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
        covered.legend(handles=patches, frameon=False, prop={"size": 9}, **place)
    return figure


def heat_figure(image: Tensor, maps: Sequence[Tensor], titles: Sequence[str], *, columns: int = 4) -> Figure:
    """A picture once for each map, laid over it as heat: nothing is blue, the most of the map is red.

    Args:
        image: uint8 (3, H, W).
        maps: float (H, W), from 0.
        titles: one per map.
        columns: pictures in a row.
    """
    columns = max(1, min(columns, len(maps)))
    rows = -(-len(maps) // columns)
    height, width = image.shape[-2:]
    size = (2.6 * columns, (2.6 * height / width + 0.35) * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if number >= len(maps):
            continue
        heat = maps[number].numpy()
        axes.imshow(in_colour(image), cmap=None)
        axes.imshow(heat, cmap="jet", vmin=0, vmax=max(float(heat.max()), 1e-12), alpha=0.5, interpolation="bilinear")
        axes.set_title(literal(titles[number]), fontsize=9)
    return figure


def heated(image: Tensor, heat: Tensor) -> Tensor:
    """A picture with one map laid over as heat, as pixels: uint8 (3, H, W).

    Args:
        image: uint8 (3, H, W).
        heat: float (H, W), from 0.

    Examples:
        >>> import torch
        >>> heated(torch.zeros(3, 4, 6, dtype=torch.uint8), torch.ones(4, 6)).shape
        torch.Size([3, 4, 6])
    """
    shares = (heat / heat.max().clamp(min=1e-12)).numpy()
    colours = colormaps["jet"](shares)[..., :3] * 255  # (H, W) -> (H, W, 3)
    return torch.from_numpy((0.5 * in_colour(image) + 0.5 * colours).astype(np.uint8)).permute(2, 0, 1)
