"""`Window`: where the batches began whose gradients are being summed, so that a checkpoint is always of a whole step."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["Window"]


class Window:
    """The progress of a run at the last moment between two optimizer steps.

    With `accumulate_grad_batches` some triggers of checkpoints come while gradients are being summed, which no checkpoint
    holds: a validation in between, a time, the first batch after a resume, an error. What is written then is the state in
    which the window began, and a resumed run goes through its batches again: weights and optimizer have not changed since.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._progress: dict[str, Any] = {}
        self._step = -1
        self._statistics: dict[str, Tensor] = {}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Takes the progress with which a run is about to go on."""
        self._loaded = copy.deepcopy(checkpoint.get("loops", {}).get("fit_loop"))

    def start(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """The first window begins, with the weights and the progress of a checkpoint where there was one."""
        self._note(trainer, module, self._loaded or trainer.fit_loop.state_dict())
        self._loaded = None

    def proceed(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """Called after each batch: where it has ended a window, the next begins."""
        if not _is_open(trainer) and _may_accumulate(trainer):
            self._note(trainer, module, trainer.fit_loop.state_dict())

    def rewind(self, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        """Turns what is about to be written inside a window into a checkpoint of its beginning."""
        if trainer.global_step != self._step or not _is_open(trainer) or "loops" not in checkpoint:
            return
        checkpoint["loops"]["fit_loop"] = copy.deepcopy(self._progress)
        weights = checkpoint.get("state_dict", {})
        weights.update({name: value for name, value in self._statistics.items() if name in weights})

    def _note(self, trainer: pl.Trainer, module: nn.Module, progress: dict[str, Any]) -> None:
        self._progress, self._step = copy.deepcopy(progress), trainer.global_step
        self._statistics = {name: value.clone() for name, value in _running(module).items()}


def _may_accumulate(trainer: pl.Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return trainer.accumulate_grad_batches > 1 or any(isinstance(one, GradientAccumulationScheduler) for one in callbacks)


def _is_open(trainer: pl.Trainer) -> bool:
    """Whether gradients are being summed: batches were done, or one is at work, that no step has used."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    current: Any = progress.current
    if current.ready > current.processed:
        return True
    return current.ready % trainer.accumulate_grad_batches != 0 and not progress.is_last_batch


def _running(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics of batch norms, which change with each batch."""
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        if isinstance(part, _NormBase):
            found |= {f"{name}.{key}": value for key, value in part.named_buffers(recurse=False)}
    return found
