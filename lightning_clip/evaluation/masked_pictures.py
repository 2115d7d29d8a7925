"""Pictures of an evaluation set with their masks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.data.masks import BACKGROUND, UNLABELLED, MaskedSource
from lightning_clip.data.sources import PairSource, Subset
from lightning_clip.evaluation.set_pictures import set_picture
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["masked_pictures"]


def masked_pictures(dataset: EvaluationSet, limit: int | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Place, picture uint8 (3, H, W) and mask int64 (H, W) of each picture.

    Args:
        dataset: whose source has masks.
        limit: pictures at most; None for all.

    Raises:
        InputError: a source without masks, a picture that cannot be read, or a mask that does not suit it.
    """
    count = len(dataset.source) if limit is None else min(limit, len(dataset.source))
    classes = len(dataset.class_names)
    for place in range(count):
        where = dataset.source.place(place)
        picture = set_picture(dataset, place)
        mask = _mask(dataset.source, place)
        if mask.shape != picture.shape[-2:]:
            raise InputError(
                f"{where} is {tuple(picture.shape[-2:])} and its mask {tuple(mask.shape)}: they must be of one size"
            )
        labelled = mask[(mask != UNLABELLED) & (mask != BACKGROUND)]
        if labelled.numel() and int(labelled.max()) >= classes:
            raise InputError(
                f"the mask of {where} has class {int(labelled.max())}, and there are {classes} class_names: give one for each "
                "number of the masks, in their order"
            )
        yield place, picture, mask


def _mask(source: PairSource, place: int) -> Tensor:
    if isinstance(source, Subset):
        return _mask(source.source, int(source.indices[place]))
    if not isinstance(source, MaskedSource):
        raise InputError(
            f"{type(source).__name__} has no masks, which this protocol needs: take the set 'masks' with a layout, the set "
            "'objects', or a source of yours that is a MaskedSource"
        )
    return source.mask(place)
