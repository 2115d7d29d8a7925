"""Features of a set on all devices: a model and a source arrive, one file of features leaves, each image in it once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Skipped
from lightning_clip.data.decoding import decode
from lightning_clip.data.loader import start_worker
from lightning_clip.data.order import Sequential
from lightning_clip.data.sampler import PairSampler, Visit, visit_seed, world
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.corruptions import corrupted
from lightning_clip.evaluation.features import Features, load_features, save_features
from lightning_clip.evaluation.interface import EvaluatedModel

__all__ = ["Images", "extract", "joined", "local_features"]


class _Sample(NamedTuple):
    image: Tensor
    place: int
    key: str
    label: int | Sequence[int]
    captions: tuple[str, ...]


class _Batch(NamedTuple):
    image: Tensor
    samples: list[_Sample]
    skipped: list[Skipped]


class Images(Dataset["_Sample | Skipped"]):
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

    def __getitem__(self, visit: Visit) -> _Sample | Skipped:
        place = visit.index
        try:
            pair = self.source[place]
            image = self.transform(decode(pair.image, getattr(self.transform, "at_least", None)))
        except (OSError, ValueError, KeyError) as error:
            return Skipped(f"sample {place}", str(error).strip("'") or type(error).__name__)
        if self.corruption:
            image = corrupted(self.corruption, image, seed=visit_seed(0, 0, place))
        label = pair.metadata.get("labels", -1 if pair.label is None else pair.label)
        return _Sample(image, place, pair.key, label, pair.captions)

    def loader(self, batch_size: int, num_workers: int) -> DataLoader[Any]:
        """Batches of this rank's share: every image once over all ranks."""
        return DataLoader(
            self,
            sampler=PairSampler(Sequential(len(self))),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_collate,
            worker_init_fn=start_worker,
        )


def _collate(samples: Sequence[_Sample | Skipped]) -> _Batch:
    good = [sample for sample in samples if isinstance(sample, _Sample)]
    image = torch.stack([sample.image for sample in good]) if good else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    lean = [sample._replace(image=torch.empty(0)) for sample in good]
    return _Batch(image, lean, [sample for sample in samples if isinstance(sample, Skipped)])


class Collector:
    """Adds up the features of one rank's share.

    Args:
        model: what encodes.
        num_classes: for images with several classes, whose labels become rows of 0 and 1; None for one class each.
    """

    def __init__(self, model: EvaluatedModel, num_classes: int | None = None) -> None:
        self.model, self.num_classes = model, num_classes
        self._image: list[Tensor] = []
        self._backbone: list[Tensor] = []
        self._samples: list[_Sample] = []
        self._skipped: dict[str, str] = {}

    def add(self, batch: _Batch) -> None:
        """Encodes a batch that is on the model's device."""
        self._skipped.update({skip.key: skip.reason for skip in batch.skipped})
        if batch.samples:
            features, backbone = self.model.encode_image(batch.image)
            self._image.append(features.cpu())
            self._backbone.append(backbone.cpu())
            self._samples += batch.samples

    def finish(self) -> Features:
        """The share, captions encoded."""
        captions = [(text, sample.place) for sample in self._samples for text in sample.captions]
        text_features = self.model.encode_text([text for text, _ in captions]) if captions else torch.zeros(0, 0)
        return Features(
            image_features=_stacked(self._image),
            backbone=_stacked(self._backbone),
            label=self._labels(),
            index=torch.tensor([sample.place for sample in self._samples], dtype=torch.int64),
            keys=[sample.key for sample in self._samples],
            text_features=text_features,
            text_index=torch.tensor([place for _, place in captions], dtype=torch.int64),
            skipped=self._skipped,
        )

    def _labels(self) -> Tensor:
        if self.num_classes is None:
            for sample in self._samples:
                if not isinstance(sample.label, int):
                    raise InputError(f"image {sample.key!r} has several labels: say multilabel: true in its evaluation set")
            return torch.tensor([sample.label for sample in self._samples], dtype=torch.int64)
        rows = torch.zeros(len(self._samples), self.num_classes, dtype=torch.int64)
        for row, sample in enumerate(self._samples):
            for label in [sample.label] if isinstance(sample.label, int) else sample.label:
                if not 0 <= label < self.num_classes:
                    raise InputError(f"image {sample.key!r} has label {label}, outside the {self.num_classes} class names")
                rows[row, label] = 1
        return rows


def joined(parts: Sequence[Features]) -> Features:
    """Shares of several ranks as one set, in the order of the source."""
    full = [part for part in parts if len(part)] or list(parts[:1])
    order = torch.cat([part.index for part in full]).argsort()
    texts = [part for part in full if len(part.text_features)]
    text_features = torch.cat([part.text_features for part in texts]) if texts else torch.zeros(0, 0)
    text_index = torch.cat([part.text_index for part in texts]) if texts else torch.zeros(0, dtype=torch.int64)
    text_order = text_index.argsort(stable=True)  # captions of an image stay in their order
    keys = [key for part in full for key in part.keys]
    return Features(
        image_features=torch.cat([part.image_features for part in full])[order],
        backbone=torch.cat([part.backbone for part in full])[order],
        label=torch.cat([part.label for part in full])[order],
        index=torch.cat([part.index for part in full])[order],
        keys=[keys[row] for row in order.tolist()],
        text_features=text_features[text_order] if len(text_order) else text_features,
        text_index=text_index[text_order],
        skipped={key: reason for part in parts for key, reason in part.skipped.items()},
    )


def local_features(
    model: EvaluatedModel, images: Images, batch_size: int, num_workers: int = 0, num_classes: int | None = None
) -> Features:
    """The share of this rank, in this process: what a callback uses while a Trainer is at work."""
    collector = Collector(model, num_classes)
    with torch.no_grad():
        for batch in images.loader(batch_size, num_workers):
            collector.add(batch._replace(image=batch.image.to(model.device)))
    return collector.finish()


def extract(
    model: EvaluatedModel,
    images: Images,
    path: Path,
    *,
    trainer: dict[str, Any] | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    num_classes: int | None = None,
) -> Features:
    """Features of a source by a Trainer of its own, kept in a file.

    The ranks write their shares beside the file, rank 0 joins them: no rank sends features to another, each image is there
    once, and the figures are those of one process.

    Args:
        model: what encodes.
        images: of one split.
        path: where the features will stand.
        trainer: arguments of the Trainer, such as {"devices": 2, "accelerator": "cpu", "strategy": "ddp"}.
        batch_size: images at a time on each device.
        num_workers: loader processes of each rank.
        num_classes: for images with several classes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{path.stem}.rank*"):
        old.unlink()
    runner = _Extractor(model, path, num_classes)
    settings: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        **(trainer or {}),
    }
    made = pl.Trainer(**settings, use_distributed_sampler=False)
    with torch.no_grad():
        made.predict(runner, images.loader(batch_size, num_workers), return_predictions=False)
    if dist.is_initialized():
        dist.barrier()
    if made.is_global_zero:
        parts = sorted(path.parent.glob(f".{path.stem}.rank*"))
        if not parts:
            raise InputError("no image could be read: the set is empty")
        save_features(joined([load_features(part) for part in parts]), path)
        for part in parts:
            part.unlink()
    if dist.is_initialized():
        dist.barrier()
    return load_features(path)


class _Extractor(pl.LightningModule):
    """Encodes batches and writes this rank's share when they are through."""

    def __init__(self, model: EvaluatedModel, path: Path, num_classes: int | None) -> None:
        super().__init__()
        self.model, self.path, self.num_classes = model, path, num_classes

    def on_predict_start(self) -> None:
        self.model.eval()
        self.collector = Collector(self.model, self.num_classes)

    def predict_step(self, batch: _Batch, batch_idx: int) -> Tensor:
        self.collector.add(batch)
        return torch.empty(0)  # Lightning warns of a step that returns nothing

    def on_predict_end(self) -> None:
        save_features(self.collector.finish(), self.path.with_name(f".{self.path.stem}.rank{world()[0]:05d}"))


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, 0)
