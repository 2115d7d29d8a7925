"""`Images`: the transformed images of a source in batches, each once over all ranks, whatever cannot be read named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.core.patches import pack, patch_side, picture_of, stack_images
from lightning_clip.core.types import Skipped
from lightning_clip.data.loader import start_worker
from lightning_clip.data.order import Sequential
from lightning_clip.data.sampler import PairSampler, Visit, visit_seed
from lightning_clip.data.shards.remote_errors import RemoteError, remedy
from lightning_clip.data.sources import PairSource
from lightning_clip.data.transforms import decode_for
from lightning_clip.evaluation.corruptions import corrupted

__all__ = ["ImageBatch", "ImageSample", "Images", "class_numbers"]


class ImageSample(NamedTuple):
    """An image of a source, transformed, with what is known of it.

    Attributes:
        image: uint8 (3, S, S); empty in the samples of a batch, which holds the pixels.
        place: in the source.
        key: its name.
        label: its class, -1 where there is none; or its classes, for sets with several classes an image.
        captions: all its texts.
        unsure: classes for which it does not count, for sets with several classes an image.
    """

    image: Tensor
    place: int
    key: str
    label: int | Sequence[int]
    captions: tuple[str, ...]
    unsure: Sequence[int] = ()


class ImageBatch(NamedTuple):
    """Images that could be read, and those that could not.

    Attributes:
        image: uint8 (B, 3, S, S).
        samples: B of them, without pixels.
        skipped: those that could not be read.
    """

    image: Tensor
    samples: list[ImageSample]
    skipped: list[Skipped]


class Images(Dataset["ImageSample | Skipped"]):
    """Transformed images of a source by place; what cannot be read comes back as `Skipped`.

    Args:
        source: pairs.
        transform: uint8 (3, H, W) -> uint8 (3, S, S).
        corruption: such as "gaussian_noise:3"; its noise depends on the place alone.
    """

    def __init__(self, source: PairSource, transform: nn.Module, corruption: str | None = None) -> None:
        self.source, self.transform, self.corruption = source, transform, corruption

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, visit: Visit) -> ImageSample | Skipped:
        place = visit.index
        try:
            pair = self.source[place]
            image = self.transform(decode_for(pair.image, self.transform))
        except RemoteError as error:  # a set is measured as a whole or not at all
            raise InputError(f"{error}: {remedy(error)}") from error
        except (OSError, ValueError, KeyError) as error:
            return Skipped(f"sample {place}", reason_of(error))
        if self.corruption:
            seed = visit_seed(0, 0, place)
            picture = picture_of(image) if image.ndim == 2 else image  # patches of a picture of any shape
            worse = corrupted(self.corruption, picture, seed=seed)
            image = pack(worse, patch_side(image)) if image.ndim == 2 else worse
        label = pair.metadata.get("labels", -1 if pair.label is None else pair.label)
        return ImageSample(image, place, pair.key, label, pair.captions, pair.metadata.get("unsure", ()))

    def loader(self, batch_size: int, num_workers: int) -> DataLoader[Any]:
        """Batches of this rank's share: every image once over all ranks.

        Args:
            batch_size: images at a time, at least 1.
            num_workers: loader processes.
        """
        return DataLoader(
            self,
            sampler=PairSampler(Sequential(len(self))),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_collate,
            worker_init_fn=start_worker,
        )


def class_numbers(samples: Sequence[ImageSample]) -> Tensor:
    """Classes int64 (B,), -1 where there is none.

    Args:
        samples: B of them.

    Raises:
        InputError: an image with several classes.
    """
    for sample in samples:
        if not isinstance(sample.label, int):
            raise InputError(f"image {sample.key!r} has several labels: set multilabel: true in its evaluation set")
    return torch.tensor([sample.label for sample in samples], dtype=torch.int64)


def _collate(samples: Sequence[ImageSample | Skipped]) -> ImageBatch:
    good = [sample for sample in samples if isinstance(sample, ImageSample)]
    image = stack_images([sample.image for sample in good]) if good else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    lean = [sample._replace(image=torch.empty(0)) for sample in good]
    return ImageBatch(image, lean, [sample for sample in samples if isinstance(sample, Skipped)])
