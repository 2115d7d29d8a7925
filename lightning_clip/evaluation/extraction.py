"""Features of a set on all devices: a model and its images -> one file of features, each image in it once."""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_clip.core.atomic import place_beside, remove_leftovers, safe_name
from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.core.pauses import pause
from lightning_clip.data.sampler import world
from lightning_clip.evaluation.features import Features, load_features, save_features
from lightning_clip.evaluation.images import ImageBatch, Images, ImageSample, class_numbers
from lightning_clip.evaluation.interface import EvaluatedModel

__all__ = ["extract", "joined", "local_features", "quiet_trainer"]


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
        self._samples: list[ImageSample] = []
        self._skipped: dict[str, str] = {}

    def add(self, batch: ImageBatch) -> None:
        """Encodes a batch.

        Args:
            batch: images uint8 (B, 3, S, S) on the model's device.
        """
        self._skipped.update({skip.key: skip.reason for skip in batch.skipped})
        if batch.samples:
            features, backbone = self.model.encode_image(batch.image)
            self._image.append(features.cpu())
            self._backbone.append(backbone.cpu())
            self._samples += batch.samples

    def finish(self) -> Features:
        """The share, captions encoded."""
        described = self._samples if self.model.reads_texts else []
        captions = [(text, sample.place) for sample in described for text in sample.captions]
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
        """Classes int64 (N,), or rows int64 (N, C) of 1, 0, and -1 where it is unsure."""
        if self.num_classes is None:
            return class_numbers(self._samples)
        rows = torch.zeros(len(self._samples), self.num_classes, dtype=torch.int64)
        for row, sample in enumerate(self._samples):
            own = [sample.label] if isinstance(sample.label, int) else sample.label
            for label, value in [(label, -1) for label in sample.unsure] + [(label, 1) for label in own]:
                if not 0 <= label < self.num_classes:
                    raise InputError(f"image {sample.key!r} has label {label}, outside the {self.num_classes} class names")
                rows[row, label] = value
        return rows


def joined(parts: Sequence[Features]) -> Features:
    """Shares of several ranks as one set, in the order of the source.

    Args:
        parts: of each rank; a rank may have no image.
    """
    full = [part for part in parts if len(part)] or list(parts[:1])

    def together(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in full])

    order = together("index").argsort()
    keys = [key for part in full for key in part.keys]
    text_features, text_index = _joined_texts([part for part in full if len(part.text_features)])
    return Features(
        image_features=together("image_features")[order],
        backbone=together("backbone")[order],
        label=together("label")[order],
        index=together("index")[order],
        keys=[keys[row] for row in order.tolist()],
        text_features=text_features,
        text_index=text_index,
        skipped={key: reason for part in parts for key, reason in part.skipped.items()},
    )


def _joined_texts(parts: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """Features (M, D) of the captions and the places (M,) of their images, rising; an image's captions stay in their order."""
    if not parts:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    index = torch.cat([part.text_index for part in parts])
    order = index.argsort(stable=True)
    return torch.cat([part.text_features for part in parts])[order], index[order]


def local_features(
    model: EvaluatedModel, images: Images, batch_size: int, num_workers: int = 0, num_classes: int | None = None
) -> Features:
    """The share of this rank, in this process: what a callback uses while a Trainer is at work.

    Args:
        model: what encodes.
        images: of one split.
        batch_size: images at a time, at least 1.
        num_workers: loader processes.
        num_classes: for images with several classes, else None.

    Raises:
        InputError: labels that do not fit.
    """
    collector = Collector(model, num_classes)
    with torch.no_grad():
        for batch in images.loader(batch_size, num_workers):
            collector.add(batch._replace(image=batch.image.to(model.device)))
            pause()
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

    Raises:
        InputError: no image could be read, or labels that do not fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    runner = _Extractor(model, path, num_classes)
    made = quiet_trainer(trainer or {})
    with torch.no_grad():
        made.predict(runner, images.loader(batch_size, num_workers), return_predictions=False)
    _wait_for_all()
    if made.is_global_zero:
        _join_files(path, runner.writer)
    _wait_for_all()
    return load_features(path)


def quiet_trainer(settings: Mapping[str, Any]) -> pl.Trainer:
    """A Trainer that extracts features and writes nothing of its own.

    Args:
        settings: as a suite has them.

    Raises:
        InputError: the Trainer refuses them.
    """
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    try:
        return pl.Trainer(**{**quiet, **settings}, use_distributed_sampler=False)
    except (TypeError, ValueError, AttributeError, MisconfigurationException) as error:
        raise InputError(f"the suite's trainer {dict(settings)!r} is refused by Lightning: {reason_of(error)}") from error


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def _join_files(path: Path, writer: str) -> None:
    """Makes one file of those that the ranks of this run wrote beside it; another run may be at the same."""
    pattern = place_beside(Path(glob.escape(path.name)), f"{glob.escape(writer)}.rank*").name
    parts = sorted(path.parent.glob(pattern))
    if not parts:
        raise InputError("no image could be read: the set is empty")
    try:
        save_features(joined([load_features(part) for part in parts]), path)
    finally:
        for part in parts:
            part.unlink()


class _Extractor(pl.LightningModule):
    """Encodes batches and writes this rank's share when they are through."""

    def __init__(self, model: EvaluatedModel, path: Path, num_classes: int | None) -> None:
        super().__init__()
        self.model, self.path, self.num_classes = model, path, num_classes
        self.writer = f"{os.getpid()}@{safe_name(socket.gethostname())}"

    def on_predict_start(self) -> None:
        self.writer = self.trainer.strategy.broadcast(self.writer)
        self.model.eval()
        self.collector = Collector(self.model, self.num_classes)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        self.collector.add(batch)
        return torch.empty(0)  # Lightning warns of a step that returns nothing

    def on_predict_end(self) -> None:
        save_features(self.collector.finish(), place_beside(self.path, f"{self.writer}.rank{world()[0]:05d}"))


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, 0)
