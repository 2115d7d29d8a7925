"""A module's optimizer and schedule in a Trainer's hands: what its strategy must be, and what a checkpoint must have used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lightning_clip.core.errors import InputError
from lightning_clip.training.averaged import check_averaging
from lightning_clip.training.optim import build_optimizer, build_scheduler
from lightning_clip.training.optimizers import is_muon

__all__ = ["check_same_optimizer", "configure"]


def configure(module: Any) -> OptimizerLRScheduler:
    """The optimizer over what is trained, and its schedule.

    Args:
        module: a `ClipModule` in a Trainer, its towers built.

    Raises:
        InputError: Muon under DeepSpeed, an averaging optimizer with a schedule or sharded weights, or what
            `build_optimizer` and `build_scheduler` refuse.
    """
    trainer, settings = module.trainer, module.training_settings.optimizer
    if is_muon(settings.name) and isinstance(trainer.strategy, DeepSpeedStrategy):
        raise InputError(
            f"optimizer {settings.name!r} needs whole matrices, which DeepSpeed flattens: use strategy 'clip_fsdp2' or 'ddp', "
            "or optimizer.name 'adamw'"
        )
    fused = trainer.precision != "16-mixed"  # whose scaling would rule out clipping by norm
    rates = module.adaptation.rates(settings, module.undecayed)
    optimizer = build_optimizer(module.model, settings, module.undecayed, fused, rates)
    check_averaging(optimizer, trainer.strategy, settings.schedule)
    schedule = build_scheduler(optimizer, settings, trainer.estimated_stepping_batches)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_same_optimizer(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuses to go on from another optimizer's checkpoint, whose state means something else.

    Args:
        module: a `ClipModule`, maybe in a Trainer.
        checkpoint: about to be loaded.

    Raises:
        InputError: a fit that goes on with another optimizer.
    """
    if module._trainer is None or module.trainer.state.fn != TrainerFn.FITTING or not checkpoint.get("optimizer_states"):
        return
    stored = checkpoint.get("hyper_parameters", {}).get("training", {}).get("optimizer", {}).get("name", "adamw")
    now = module.training_settings.to_mapping()["optimizer"]["name"]
    if stored != now:
        raise InputError(
            f"the checkpoint was written with optimizer {stored!r} and this run has {now!r}, whose state is another: go on "
            f"with optimizer.name {stored!r}, or let a new run begin with its weights (pretrained: FILE.ckpt)"
        )
