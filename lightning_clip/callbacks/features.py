"""`WriteFeatures`: the features of `lightning-clip predict` in one .npz per rank."""

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
from lightning_clip.core.types import PairBatch

__all__ = ["WriteFeatures"]


class WriteFeatures(BasePredictionWriter):
    """Writes unit features and keys of the predicted pairs.

    The file holds `image_features` (N, D) and `text_features` (N, D), float32, `index` (N,) and `keys` (N,). With several
    ranks each writes its own share as NAME.rank1.npz and so on.

    Args:
        path: the .npz file.
    """

    def __init__(self, path: str = "features.npz") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        self._parts: list[tuple[Tensor, Tensor, PairBatch]] = []

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
        path = self.path if trainer.global_rank == 0 else self.path.with_suffix(f".rank{trainer.global_rank}.npz")
        images, texts, batches = zip(*self._parts, strict=True)
        arrays: dict[str, Any] = {
            "image_features": torch.cat(images).numpy(),
            "text_features": torch.cat(texts).numpy(),
            "index": np.concatenate([batch.index.cpu().numpy() for batch in batches]),
            "keys": np.array([key for batch in batches for key in batch.keys]),
        }
        with beside(path) as place:
            np.savez(place, **arrays)
        self._parts.clear()
        print(f"wrote {len(arrays['keys'])} pairs of features to {path}")
