"""Locks: which parameters and layers are frozen, and in which stage of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_clip.adapt.depth import block_names, layer_depths, parameter_depths, subtree
from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.adapt.towers import Lock
from lightning_clip.core.errors import InputError
from lightning_clip.encoders.new_tokens import new_token_names

if TYPE_CHECKING:
    from lightning_clip.model.space import SharedSpace

__all__ = ["Locks"]

_TEMPERATURE = ("logit_scale", "logit_bias")


class Locks:
    """Which parameters are trained in which stage; knows names alone, so that it outlives sharding and copies.

    Args:
        model: before a strategy wraps it, adapters included.
        settings: what is locked, and when.

    Raises:
        InputError: `unlock_last` beyond the blocks, or a stage in which nothing but the temperature would be trained.
    """

    def __init__(self, model: SharedSpace, settings: AdaptSettings) -> None:
        self.settings = settings
        self.stage = 0
        self._stilled: set[str] = set()  # layers that this object put into evaluation mode
        self._trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._new_tokens = new_token_names(model)
        check_columns(model, settings)
        encoders = {tower: model.tower(tower) for tower in settings.towers if tower in model.own_columns}
        self._blocks = {tower: len(block_names(encoder)) for tower, encoder in encoders.items()}
        self._depths = {tower: parameter_depths(encoder) for tower, encoder in encoders.items()}
        self._layers = {tower: layer_depths(encoder) for tower, encoder in encoders.items()}
        for stage in range(len(settings.stages) + 1):
            self._check(stage)

    # -- when -------------------------------------------------------------------------------------------------------

    def stage_at(self, step: int, epoch: int) -> int:
        """The number of the stage in which optimizer step `step` of epoch `epoch` is done; the last one has no end."""
        for number, stage in enumerate(self.settings.stages):
            if step < stage.until_step if stage.until_step is not None else epoch < (stage.until_epoch or 0):
                return number
        return len(self.settings.stages)

    def lock_of(self, tower: str, stage: int | None = None) -> Lock:
        """The lock of a tower in a stage, the present one if none is named."""
        stage = self.stage if stage is None else stage
        stages = self.settings.stages
        own: Lock | None = getattr(stages[stage], tower, None) if stage < len(stages) else None
        return self.settings.towers[tower] if own is None else own

    # -- what -------------------------------------------------------------------------------------------------------

    def trained(self, stage: int) -> set[str]:
        """Names of the parameters that are trained in a stage."""
        return {name for name in self._trainable if not self._is_locked(name, stage)}

    def ever_trained(self) -> set[str]:
        """Names of the parameters that are trained in any stage: the optimizer's."""
        return set().union(*(self.trained(stage) for stage in range(len(self.settings.stages) + 1)))

    def always_still(self, name: str) -> bool:
        """Whether a value that is no parameter (statistics of normalisation) stays as it is in all stages."""
        tower, _, kind = name.partition(".")[0].rpartition("_")
        if tower not in self._blocks or kind != "encoder":
            return False
        locks = [self.lock_of(tower, stage) for stage in range(len(self.settings.stages) + 1)]
        return self.settings.towers[tower].lora is not None or all(lock.lock and not lock.unlock_last for lock in locks)

    def enter(self, model: nn.Module, stage: int) -> None:
        """Sets gradients and modes as a stage has them."""
        self.stage = stage
        trained = self.trained(stage)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        for name, layer in model.named_modules():
            layer.training |= name in self._stilled
        self.still(model)

    def still(self, model: nn.Module) -> None:
        """Puts what is locked into evaluation mode; to be called after each `model.train()`."""
        layers = {name: layer for name, layer in model.named_modules() if self._is_still(name, layer)}
        self._stilled = {name for name, layer in layers.items() if layer.training or name in self._stilled}
        for layer in layers.values():
            layer.training = False

    def _is_still(self, name: str, layer: nn.Module) -> bool:
        part, _, rest = name.partition(".")
        tower, _, kind = part.rpartition("_")
        if tower not in self._blocks:
            return False
        lock = self.lock_of(tower)
        if kind == "projection":
            return lock.lock_projection
        if lock.lock:
            first = self._first_unlocked(tower, lock)
            return all(depth < first for depth in subtree(rest, self._layers[tower]))
        # The statistics of a tower with adapters belong to its weights, which stay as they are.
        return self.settings.towers[tower].lora is not None and isinstance(layer, _BatchNorm)

    def _is_locked(self, name: str, stage: int) -> bool:
        part, _, rest = name.partition(".")
        tower, _, kind = part.rpartition("_")
        if tower not in self._blocks or name in self._new_tokens:
            return False
        lock = self.lock_of(tower, stage)
        if kind == "projection":
            return lock.lock_projection
        return lock.lock and self._depths[tower][rest] < self._first_unlocked(tower, lock)

    def _first_unlocked(self, tower: str, lock: Lock) -> int:
        """The depth from which on a locked tower is trained, beyond its end if it is locked as a whole."""
        blocks = self._blocks[tower]
        return blocks + 1 - lock.unlock_last if lock.unlock_last else blocks + 2

    def _check(self, stage: int) -> None:
        where = f"adapt.stages[{stage}]" if stage < len(self.settings.stages) else "adapt"
        for tower in self._blocks:
            lock, blocks = self.lock_of(tower, stage), self._blocks[tower]
            if lock.unlock_last > blocks:
                raise InputError(
                    f"{where}.{tower}.unlock_last {lock.unlock_last} is more than the {blocks} blocks of the {tower} tower: "
                    f"use at most {blocks}, or omit lock to train the whole tower"
                )
        if self._trainable and not self.trained(stage) - set(_TEMPERATURE):
            raise InputError(f"{where} locks all towers with their heads: nothing but the temperature would be trained")


def check_columns(model: SharedSpace, settings: AdaptSettings) -> None:
    """Raises an InputError where settings name a tower that was not built."""
    for column, tower in settings.towers.items():
        if column not in model.own_columns and tower != type(tower)():
            raise InputError(
                f"adapt.{column} is set, but the model has no tower for column {column!r} (it has "
                f"{', '.join(model.own_columns)}): omit it"
            )
