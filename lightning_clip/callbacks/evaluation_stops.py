"""Moments at which a run may stop inside an evaluation: the same on all ranks, with the weights that are trained."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging

__all__ = ["EvaluationBatches", "end_validation", "may_stop_at_its_end", "may_stop_inside"]

_TRADES = (("on_validation_start", "on_validation_epoch_start"), ("on_validation_epoch_end", "on_validation_end"))


class EvaluationBatches:
    """Counts the batches of an evaluation, of which ranks may have different numbers.

    Args:
        every_n_batches: how often several ranks compare notes; a single rank may stop after any batch.
    """

    def __init__(self, every_n_batches: int) -> None:
        self.every_n_batches = every_n_batches
        self._done, self._common = 0, math.inf

    def begin(self, trainer: pl.Trainer) -> None:
        """The evaluation that a Trainer is about to run; all ranks must ask, since they learn what they have in common."""
        self._done, self._common = 0, math.inf
        if trainer.world_size > 1:
            own = torch.tensor(_batches(trainer), dtype=torch.float32, device=trainer.strategy.root_device)
            self._common = float(trainer.strategy.reduce(own, reduce_op="min"))
            if math.isinf(self._common):  # no rank knows when another ends
                self._common = 0

    def is_turn(self, trainer: pl.Trainer) -> bool:
        """After each batch: whether all ranks are here, and may be asked."""
        self._done += 1
        if trainer.world_size == 1:
            return True
        return self._done <= self._common and self._done % self.every_n_batches == 0


def may_stop_inside(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether it is known how to get the trained weights back in the middle of a validation.

    Lightning's averages of weights take the model's place for it. A part of the user's own that has hooks before and after a
    validation may do the same in ways of its own: there a run stops at the validation's end, as it always could.
    """
    return not any(_may_trade(part) for part in (*trainer.callbacks, module))  # type: ignore[attr-defined]


def may_stop_at_its_end(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether a run may stop while callbacks evaluate at the end of a validation, as `EvaluationSuite` does.

    One rank alone, since others would wait in messages; and no averages, which are taken out of the model about then.
    """
    averages = any(isinstance(one, WeightAveraging) for one in trainer.callbacks)  # type: ignore[attr-defined]
    return trainer.world_size == 1 and not averages and may_stop_inside(trainer, module)


def end_validation(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Takes back what was done to the weights for a validation that does not go on."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, module)
    trainer.strategy.on_validation_end()


def _batches(trainer: pl.Trainer) -> float:
    """Of this rank, over all loaders."""
    if trainer.sanity_checking:
        counts = trainer.num_sanity_val_batches
    elif trainer.testing:
        counts = trainer.num_test_batches
    else:
        counts = trainer.num_predict_batches if trainer.predicting else trainer.num_val_batches
    return float(sum(counts))


def _may_trade(part: object) -> bool:
    return all(any(_is_users(part, hook) for hook in hooks) for hooks in _TRADES)


def _is_users(part: object, hook: str) -> bool:
    """Whether a hook is neither Lightning's nor this package's."""
    return getattr(type(part), hook).__module__.partition(".")[0] not in ("lightning", "pytorch_lightning", "lightning_clip")
