"""What a module does when it is adapted: its model arrives, rates and locks for each place of the run leave."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_clip.adapt.locking import Locks
from lightning_clip.adapt.rates import DepthRates
from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.errors import InputError
from lightning_clip.optim import OptimizerSettings, Rate

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from lightning_clip.model import ClipModel

__all__ = ["Adaptation"]


class Adaptation:
    """Settings applied to a model; holds names alone.

    Args:
        model: before a strategy wraps it; its locks are set for the first step.
        settings: what is trained, and how.
        strategy: of the Trainer, where there is one.

    Raises:
        InputError: settings that do not fit the model or the strategy.
    """

    def __init__(self, model: ClipModel, settings: AdaptSettings, strategy: Strategy | None = None) -> None:
        if settings.stages and isinstance(strategy, DeepSpeedStrategy):
            raise InputError(
                "adapt.stages cannot change what DeepSpeed trains once it has taken the weights apart: use strategy 'ddp' or "
                "'clip_fsdp2', or one run for each stage"
            )
        self.settings = settings
        self.locks = Locks(model, settings)
        self._rates = DepthRates(model, settings)
        self.locks.enter(model, 0)
        if not settings.ordinary:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # of Lightning: here it is meant

    def rates(self, optimizer: OptimizerSettings, undecayed: Collection[str]) -> Mapping[str, Rate] | None:
        """Of every parameter that is ever trained; None where one rate serves all."""
        if self.settings.ordinary:
            return None
        return self._rates.of(self.locks.ever_trained(), optimizer, undecayed)

    def resume(self, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
        """Sets the locks of the last step before a checkpoint, so that the optimizer's state finds what it was of."""
        self.locks.enter(model, self.locks.stage_at(max(0, checkpoint.get("global_step", 0) - 1), checkpoint.get("epoch", 0)))

    def proceed(self, trainer: pl.Trainer, model: nn.Module) -> bool:
        """Called before each batch: goes on to the stage of the coming step, and says whether it is another one."""
        stage = self.locks.stage_at(trainer.global_step, trainer.current_epoch)
        if stage == self.locks.stage:
            return False
        self.locks.enter(model, stage)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if not parameter.requires_grad:
                        optimizer.state.pop(parameter, None)
        _wrap_again(trainer.strategy)
        return True


def _wrap_again(strategy: Strategy) -> None:
    """DDP reduces the gradients of those parameters that were trained when it wrapped the module: others need a new one."""
    wrapped = strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(wrapped, DistributedDataParallel):
        wrapped._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = wrapped.module
        strategy.configure_ddp()
