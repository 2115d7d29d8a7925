"""What is written while gradients are being summed is a checkpoint of the last whole step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from small import small_data, small_module, small_trainer


class SaveInEachHook(pl.Callback):
    """Writes a checkpoint at the moment `hook` of every batch."""

    def __init__(self, folder: Path, hook: str) -> None:
        self.folder = folder
        setattr(self, hook, self._save)

    def _save(self, trainer: pl.Trainer, *arguments: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        trainer.save_checkpoint(self.folder / f"{done}.ckpt")


def batches_done(path: Path) -> int:
    progress = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return int(progress["total"]["processed"])


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("on_train_batch_end", [0, 0, 3, 3, 5, 5, 5, 8]),  # epochs of 5 batches: windows of 3 and 2
        ("on_before_optimizer_step", [0, 3, 5]),
        ("on_validation_end", [0, 3, 5, 8]),  # after batches 2, 4, 6 and 8, the last of which ends a window
    ],
)
def test_rewinds(hook: str, expected: list[int], tmp_path: Path) -> None:
    callbacks = [SaveInEachHook(tmp_path, hook)]
    validates = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = small_trainer(tmp_path, max_steps=3, accumulate_grad_batches=3, callbacks=callbacks, **validates)
    trainer.fit(small_module(), small_data(size=40, batch=8))
    written = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem))
    assert [batches_done(path) for path in written] == expected


def test_when_accumulation_begins_late(tmp_path: Path) -> None:
    callbacks = [SaveInEachHook(tmp_path, "on_train_batch_end"), GradientAccumulationScheduler({0: 1, 1: 3})]
    small_trainer(tmp_path, max_steps=-1, max_epochs=2, callbacks=callbacks).fit(small_module(), small_data(size=24, batch=8))
    assert [batches_done(tmp_path / f"{done}.ckpt") for done in range(1, 7)] == [1, 2, 3, 3, 3, 6]


def test_running_statistics_are_those_of_the_beginning(tmp_path: Path) -> None:
    """Or a resumed run would count the window's batches twice."""
    module = small_module(image_encoder={"name": "resnet18", "image_size": 32})
    trainer = small_trainer(
        tmp_path, max_steps=2, accumulate_grad_batches=2, callbacks=[SaveInEachHook(tmp_path, "on_train_batch_end")]
    )
    trainer.fit(module, small_data(size=32, batch=8))
    counts = []
    for done in (1, 2, 3, 4):
        weights = torch.load(tmp_path / f"{done}.ckpt", weights_only=True)["state_dict"]
        counts.append({int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")})
    assert counts == [{0}, {2}, {2}, {4}]
