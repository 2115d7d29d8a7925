"""One picture of an evaluation set that must be there."""

from __future__ import annotations

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["set_picture"]


def set_picture(dataset: EvaluationSet, place: int) -> Tensor:
    """A picture as uint8 (3, H, W) of its own size.

    Args:
        dataset: of which no picture may be left out, or its figures would be of another set.
        place: in its source.

    Raises:
        InputError: a picture that cannot be read.
    """
    try:
        return dataset.picture(place)
    except (OSError, ValueError) as error:
        where = dataset.source.place(place)
        raise InputError(f"{where} cannot be read ({error}): a set is measured as a whole, so mend the file") from error
