"""Pictures with boxes drawn on them, each with its name and score."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_clip.reporting.colours import in_colour
from lightning_clip.reporting.letters import literal
from lightning_clip.reporting.overlays import class_colours

__all__ = ["box_figure"]

_WIDTH = 4.8  # inches of a picture


def box_figure(image: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor | None, names: Sequence[str]) -> Figure:
    """A picture with boxes; a name has one colour.

    Args:
        image: uint8 (3, H, W).
        boxes: (N, 4), left, top, right and bottom in pixels.
        labels: int64 (N,), places in `names`.
        scores: (N,) in [0, 1]; None for none.
        names: C of them.
    """
    height, width = image.shape[-2:]
    figure = Figure(figsize=(_WIDTH, max(1.5, min(3 * _WIDTH, _WIDTH * height / width))), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.imshow(in_colour(image))
    colours = class_colours(len(names))
    for row in reversed(range(len(labels))):  # the surest on top
        left, top, right, bottom = boxes[row].tolist()
        label = int(labels[row])
        colour = colours[label]
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.8)
        )
        text = names[label] if scores is None else f"{names[label]} {100 * float(scores[row]):.0f} %"
        above = top > 0.06 * height
        axes.text(
            left - 0.5,
            top - 0.5 if above else bottom - 0.5,
            literal(text),
            fontsize=8,
            color="white",
            verticalalignment="bottom" if above else "top",
            bbox={"facecolor": colour, "edgecolor": colour, "pad": 1.2, "alpha": 0.85},
            clip_on=True,
        )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure
