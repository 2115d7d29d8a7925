"""A module in a Trainer's hands: losses of all ranks, batch statistics, and callbacks and plugins that copy layers."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_clip.core.distributed import mean_over_ranks, world
from lightning_clip.core.errors import InputError
from lightning_clip.losses import SoftmaxContrastiveLoss
from lightning_clip.strategies import ClipDeepSpeedStrategy, ClipFSDP2Strategy, check_strategy

__all__ = ["check_trainer", "log_losses", "over_ranks", "say_untrained", "share_statistics", "take_up"]

log = logging.getLogger(__name__)


def check_trainer(trainer: Any) -> None:
    """Refuses strategies and callbacks that do not know how a two-tower model is built and cut.

    Raises:
        InputError: a strategy that is not supported, or an average of whole weights where they are spread over the ranks.
    """
    check_strategy(trainer.strategy)
    if not isinstance(trainer.strategy, ClipFSDP2Strategy | ClipDeepSpeedStrategy):
        return
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging | WeightAveraging):
            raise InputError(
                f"{type(callback).__name__} keeps a copy of the whole model, which {type(trainer.strategy).__name__} spreads "
                "over the ranks: use strategy 'ddp', or omit the callback"
            )


def take_up(module: Any) -> None:
    """Gives a Trainer what it can only have of a model that is built: called once the towers are there.

    `StochasticWeightAveraging` copies the module before: it would average nothing. `sync_batchnorm` is done here for every
    strategy, with timm's layers, which torch's own conversion strips of their activation.

    Raises:
        InputError: a strategy that the objective does not work with, or `sync_batchnorm` on CPUs.
    """
    trainer = module.trainer
    module.objective.check_strategy(trainer.strategy, module.model)
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging):
            average: Any = callback._average_model
            if average is not None and "model" not in average._modules:
                callback._average_model = copy.deepcopy(module)
    if getattr(trainer.strategy, "_layer_sync", None) is not None and trainer.state.fn == TrainerFn.FITTING:
        if trainer.strategy.root_device.type == "cpu":
            raise InputError("sync_batchnorm needs accelerators: torch has no such layer for CPUs. Omit it there")
        convert_sync_batchnorm(module.model)  # type: ignore[no-untyped-call]
        trainer.strategy._layer_sync = None  # the layers are there: a second conversion would lose their activations


def say_untrained(module: Any) -> None:
    """Warns, before an evaluation, that its figures are those of random weights."""
    if not module.has_weights:
        log.warning(
            "This model is untrained: no weights were loaded (ckpt_path, load_from_checkpoint, pretrained) and none were "
            "trained. What follows are figures of random weights, which is chance."
        )


def share_statistics(model: nn.Module) -> None:
    """Gives all ranks the running statistics of the first one, which checkpoints hold: else ranks evaluate different models."""
    if world()[1] == 1:
        return
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            for statistic in layer.buffers():
                dist.broadcast(statistic, 0)


def over_ranks(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a step's loss, () each, as means over all ranks, which one message brings together.

    Args:
        parts: of this rank.
    """
    values = mean_over_ranks(torch.stack([value.detach().float().reshape(()) for value in parts.values()]))  # (K,)
    return dict(zip(parts, values, strict=True))


def log_losses(module: Any, parts: Mapping[str, Tensor], scale: Tensor, rows: int) -> None:
    """Logs the parts of a step's loss over the rows of all ranks; says once where the loss stays at chance.

    Args:
        module: in training.
        parts: () each, of all ranks.
        scale: (1,).
        rows: B, of this rank.
    """
    module.log_dict({f"train/{name}": value for name, value in parts.items()}, prog_bar=True)
    module.log("train/scale", scale.detach())
    settings, step = module.training_settings.optimizer, module.trainer.global_step
    warmup = settings.warmup_steps
    if warmup is None:  # the most that it may be: to ask how long the run is would start the loader's workers
        warmup = 2000 if module.trainer.max_steps < 0 else min(2000, module.trainer.max_steps // 10)
    if step < warmup or not isinstance(getattr(module.objective, "loss", None), SoftmaxContrastiveLoss):
        return
    whole = rows * world()[1]
    if module.chance.watch(next(iter(parts.values())), whole, asked=(step + 1) % max(1, module.trainer.log_every_n_steps) == 0):
        log.warning(
            "The loss has stayed at log %d = %.3f for %d steps, which is chance: features are alike and nothing is learned. "
            "Lower optimizer.lr (it is %g) or raise optimizer.warmup_steps (they are %d).",
            whole,
            math.log(whole),
            module.chance.steps,
            settings.lr,
            warmup,
        )
