"""Contact sheets of images of a set with what a model answered."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.data.decoding import decode
from lightning_clip.data.pixel_values import CONVENTION, PixelReading
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["picture", "prediction_sheet"]


def picture(source: PairSource, place: int, reading: PixelReading = CONVENTION) -> Tensor | None:
    """uint8 (3, H, W), or None if it cannot be read.

    Args:
        source: where it is.
        place: its index there.
        reading: what is shown of files with more than 8 bits or three bands: that of the model.
    """
    try:
        return decode(source[place].image, reading)
    except (OSError, ValueError, KeyError):
        return None


def prediction_sheet(dataset: EvaluationSet, examples: Sequence[Sequence[float]]) -> Figure | None:
    """Pictures with true class, answer and its probability; None if there is none to show.

    Args:
        dataset: where they are.
        examples: [place, true class, answer, probability] each.
    """
    pictures, texts, colours = [], [], []
    for place, true, answer, probability in examples:
        pixels = picture(dataset.source, int(place), dataset.reading)
        if pixels is None:
            continue
        names = dataset.names
        right = int(true) == int(answer)
        text = f"{names[int(answer)]} {100 * probability:.0f} %" + ("" if right else f" (is {names[int(true)]})")
        pictures.append(pixels)
        texts.append(wrapped(text))
        colours.append("good" if right else "bad")
    return contact_sheet(pictures, texts, colours) if pictures else None
