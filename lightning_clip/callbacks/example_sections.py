"""Sections with examples of what the callbacks of a run measured last: for its report and its loggers."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lightning_clip.callbacks.report_sections import zero_shot_sections
from lightning_clip.callbacks.retrieval import Retrieval
from lightning_clip.callbacks.retrieval_sections import retrieval_sections
from lightning_clip.callbacks.zero_shot import ZeroShotClassification
from lightning_clip.data import ClipDataModule
from lightning_clip.model.predictor import predictor_of
from lightning_clip.reporting.html import Section

__all__ = ["example_sections"]


def example_sections(trainer: pl.Trainer, module: pl.LightningModule, split: str) -> list[Section]:
    """Predictions and confusion matrices of all sets, and retrieved pictures where the data can read them again.

    Args:
        trainer: with callbacks that have measured.
        module: with a predictor.
        split: "val" or "test", in which pictures were retrieved.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    sections = zero_shot_sections([callback for callback in callbacks if isinstance(callback, ZeroShotClassification)])
    retrieval = [callback for callback in callbacks if isinstance(callback, Retrieval) and callback.result]
    data = trainer.datamodule  # type: ignore[attr-defined]
    if retrieval and isinstance(data, ClipDataModule):
        sections += retrieval_sections(retrieval, data.source(split), predictor_of(module).transform)
    return sections
