"""Pictures of an evaluation set with the boxes of their objects, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.data.boxes import BoxedSource, Boxes
from lightning_clip.data.sources import PairSource, Subset
from lightning_clip.evaluation.set_pictures import set_picture
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["boxed_pictures"]


def boxed_pictures(dataset: EvaluationSet, limit: int | None = None) -> Iterator[tuple[int, Tensor, Boxes]]:
    """Place, picture uint8 (3, H, W) and boxes of each picture; a picture may have none.

    Args:
        dataset: whose source has boxes.
        limit: pictures at most; None for all.

    Raises:
        InputError: a source without boxes, a picture that cannot be read, or a label that is no class.
    """
    count = len(dataset.source) if limit is None else min(limit, len(dataset.source))
    classes = len(dataset.class_names)
    for place in range(count):
        boxes = _boxes(dataset.source, place)
        where = dataset.source.place(place)
        picture = set_picture(dataset, place)
        if len(boxes) and int(boxes.labels.max()) >= classes:
            raise InputError(
                f"a box of {where} has class {int(boxes.labels.max())}, and there are {classes} class_names: give one for each "
                "label, in their order"
            )
        yield place, picture, boxes


def _boxes(source: PairSource, place: int) -> Boxes:
    if isinstance(source, Subset):
        return _boxes(source.source, int(source.indices[place]))
    if not isinstance(source, BoxedSource):
        raise InputError(
            f"{type(source).__name__} has no boxes, which this protocol needs: take the set 'coco', the set 'objects', or a "
            "source of yours that is a BoxedSource"
        )
    return source.boxes(place)
