"""`WriteFeatures`: the features of `lightning-clip predict`, in one .npz per rank or as a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.evaluation.feature_datasets import check_new, dataset_of, write_dataset

__all__ = ["WriteFeatures"]


class WriteFeatures(BasePredictionWriter):
    """Writes unit features and keys of the predicted pairs.

    They are `image_features` (N, D) and `text_features` (N, D), float32, `index` (N,) and `keys` (N,), the latter in a dataset
    `key`, beside `label` (N,), -1 where there is none. With several ranks each writes its own share as NAME.rank1.npz and so
    on.

    Args:
        path: a file that ends in .npz, or a folder to make, for `datasets.load_from_disk`.

    Raises:
        InputError: another ending, or a folder that exists.
    """

    def __init__(self, path: str = "features.npz") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path).expanduser()
        if self.path.suffix not in ("", ".npz"):
            raise InputError(f"features {path!r} end in {self.path.suffix!r}: give a file .npz, or a folder for a dataset")
        self._parts: list[tuple[Tensor, Tensor, PairBatch]] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.path.suffix:  # said before the work, not behind it
            check_new(self._place(trainer))

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        small = batch._replace(image=torch.empty(0), tokens=torch.empty(0), mask=torch.empty(0))
        features = (prediction.image_features.float().cpu(), prediction.text_features.float().cpu())
        self._parts.append((*features, small))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = self._place(trainer)
        images, texts, batches = zip(*self._parts, strict=True)
        arrays: dict[str, Any] = {
            "image_features": torch.cat(images).numpy(),
            "text_features": torch.cat(texts).numpy(),
            "index": np.concatenate([batch.index.cpu().numpy() for batch in batches]),
        }
        keys = [key for batch in batches for key in batch.keys]
        if self.path.suffix:
            with beside(path) as place:
                np.savez(place, **arrays, keys=np.array(keys))
        else:
            label = np.concatenate([batch.label.cpu().numpy() for batch in batches])
            write_dataset(dataset_of({"key": keys, "label": label, **arrays}), path)
        self._parts.clear()
        print(f"wrote {len(keys)} pairs of features to {path}")

    def _place(self, trainer: pl.Trainer) -> Path:
        """Where this rank writes."""
        rank = trainer.global_rank
        return self.path if rank == 0 else self.path.with_suffix(f".rank{rank}{self.path.suffix}")
