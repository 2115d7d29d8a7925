"""How a module is trained: optimizer, micro-batches, execution and adaptation, in one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from lightning_clip.adapt import AdaptSettings
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import check_known, mapping
from lightning_clip.model.recipe import Recipe, plain_settings
from lightning_clip.objectives import Objective
from lightning_clip.training.execution import ExecutionSettings
from lightning_clip.training.optim import OptimizerSettings
from lightning_clip.training.optimizers import note_of
from lightning_clip.training.phases import Phase, phases_of

__all__ = ["TrainingSettings", "recorded"]

_PARTS = ("optimizer", "micro_batch_size", "execution", "adapt", "phases")


@dataclass(frozen=True)
class TrainingSettings:
    """How a `ClipModule` is trained; none of it changes what the model is.

    Args:
        optimizer: learning rate and schedule, see `OptimizerSettings`.
        micro_batch_size: pairs encoded at a time; memory then holds the activations of so many, for a third more time.
            The gradient stays that of the whole batch. None encodes the batch at once.
        execution: compilation, activation checkpointing and other things that change speed only, see `ExecutionSettings`.
        phases: few image tokens, or small images, first and all of them in the rest of the run, see `Phase`.
        adapt: what is trained when a trained model is adapted: locks, rates by depth, stages, LoRA, see `AdaptSettings`.

    Raises:
        InputError: an unknown setting, or a value out of range.

    Examples:
        >>> TrainingSettings.of({"optimizer": {"lr": 1e-3}, "micro_batch_size": 32}).optimizer.lr
        0.001
    """

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    micro_batch_size: int | None = None
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise InputError(f"micro_batch_size {size} must be at least 1, or None to encode the batch at once")

    def with_rate(self, lr: float) -> TrainingSettings:
        """The same with another learning rate.

        Args:
            lr: > 0.
        """
        return replace(self, optimizer=replace(self.optimizer, lr=lr))

    @classmethod
    def of(cls, value: TrainingSettings | Mapping[str, Any] | None) -> TrainingSettings:
        """Settings from settings, a mapping, or None for the defaults."""
        if isinstance(value, cls):
            return value
        given = mapping(value, "training")
        check_known(given, _PARTS, "training")
        return cls(
            OptimizerSettings.of(given.get("optimizer")),
            given.get("micro_batch_size"),
            ExecutionSettings.of(given.get("execution")),
            AdaptSettings.of(given.get("adapt")),
            phases_of(given.get("phases")),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain types that `of` reads."""
        return {
            "optimizer": self.optimizer.to_mapping(),
            "micro_batch_size": self.micro_batch_size,
            "execution": plain_settings(self.execution),
            "adapt": self.adapt.to_mapping(),
            "phases": [plain_settings(phase) for phase in self.phases],
        }


def recorded(recipe: Recipe, objective: Objective, training: TrainingSettings) -> dict[str, Any]:
    """What loggers show of a run.

    Args:
        recipe: what the model is made of.
        objective: what is learned.
        training: how.
    """
    towers = {column: spec.tower_mapping() or spec.around() for column, spec in recipe.towers.items()}
    return {
        **{f"{column}_tower": found.get("name", str(found)) for column, found in towers.items()},
        "embed_dim": recipe.embed_dim,
        "objective": shorten(str(objective.to_mapping()), 1000),  # a vocabulary may be long
        "optimizer": str(note_of(training.optimizer.name)),
        "lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay,
        "micro_batch_size": training.micro_batch_size,
    }
