"""Optimizers that train one set of weights and use another, their average, as schedule-free ones do (Defazio et al. 2024).

The model holds the weights that are trained, y, between steps of training, and the averaged ones, x, whenever it is used:
in validation, in checkpoints and after the fit. A checkpoint holds x, and the optimizer what brings y back, so that a run that
goes on takes the very steps of the whole one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_clip.core.errors import InputError

__all__ = ["Averaging", "check_averaging", "store_averaged", "use_averaged", "use_trained"]


@runtime_checkable
class Averaging(Protocol):
    """An optimizer that switches the weights in place, as those of the package schedulefree do; calls may repeat."""

    def train(self) -> None:
        """The weights that are trained."""
        ...

    def eval(self) -> None:
        """The averaged weights."""
        ...


def use_trained(optimizers: Iterable[Optimizer]) -> None:
    """Puts the weights that are trained into the model.

    Args:
        optimizers: of a Trainer; those that do not average are passed over.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, Averaging):
            optimizer.train()


def use_averaged(optimizers: Iterable[Optimizer]) -> None:
    """Puts the averaged weights into the model.

    Args:
        optimizers: as for `use_trained`.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, Averaging):
            optimizer.eval()


def store_averaged(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Replaces weights in a checkpoint that is about to be written by the averaged ones, and notes that they are those.

    Args:
        trainer: that writes it, in training or not.
        checkpoint: by Lightning.
    """
    averaging: list[Any] = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, Averaging)]
    trained = [optimizer for optimizer in averaging if any(group.get("train_mode") for group in optimizer.param_groups)]
    if trained:
        use_averaged(trained)
        state = trainer.strategy.lightning_module_state_dict()
        checkpoint["state_dict"] = {
            name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()
        }
        use_trained(trained)  # by the operations of a run that goes on from here: equal bit for bit
    if averaging:
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:
                group["train_mode"] = False


def check_averaging(optimizer: Optimizer, strategy: Any, schedule: str) -> None:
    """Refuses what an averaging optimizer cannot have.

    Args:
        optimizer: any.
        strategy: of the Trainer.
        schedule: of the learning rate.

    Raises:
        InputError: an averaging optimizer with sharded weights, or with a rate that falls.
    """
    if not isinstance(optimizer, Averaging):
        return
    name = type(optimizer).__name__
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise InputError(f"optimizer {name} averages whole weights: use strategy 'ddp' or one device, or another optimizer")
    if schedule != "constant":
        raise InputError(
            f"optimizer {name} averages in the place of a rate that falls: set optimizer.schedule to 'constant' "
            f"(now {schedule!r})"
        )
