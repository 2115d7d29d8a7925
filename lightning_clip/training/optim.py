"""Parameter groups, the optimizer and its learning-rate schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, in_range, mapping, plain
from lightning_clip.encoders.new_tokens import new_token_names
from lightning_clip.training.optimizers import build_from, hidden_matrices, is_muon, note_of
from lightning_clip.training.schedule import RateShape, RunSchedule

__all__ = ["OptimizerSettings", "Rate", "build_optimizer", "build_scheduler", "undecayed_names"]

log = logging.getLogger(__name__)


_SCHEDULES = ("cosine", "constant", "warmup_stable_decay")
_ADAMW = {"betas": (0.9, 0.98), "eps": 1e-6}  # the paper's for ViT


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay; the defaults are the paper's for ViT (section 2.5, table 18).

    Args:
        name: "adamw", "muon" (matrices inside the towers by Muon, the rest by AdamW), "schedulefree_adamw", any of timm's
            ("lion", "nadamw", "lamb", ...), one that was registered, or an object: a class or function that takes groups of
            parameters, such as `functools.partial(torch.optim.SGD, momentum=0.9)`.
        options: further settings of that optimizer, such as {"momentum": 0.9}.
        lr: peak learning rate.
        weight_decay: not applied to gains, biases and the temperature.
        betas: decay of the two moments; None takes (0.9, 0.98) where AdamW is used, and the optimizer's own elsewhere.
        eps: added to the denominator; None takes 1e-6 where AdamW is used, and the optimizer's own elsewhere.
        warmup_steps: optimizer steps of linear warm-up; None takes 2,000 but at most a tenth of the run.
        schedule: after the warm-up "cosine" to `final_lr`; "constant"; or "warmup_stable_decay", constant until the last
            `decay_share` of the run, in which it falls to `final_lr` by 1 - sqrt (Haegele et al. 2024, arXiv 2405.18392).
        final_lr: learning rate at the end.
        decay_share: of the run, in (0, 1], in which "warmup_stable_decay" falls.
        on_resume: what a run that goes on from a checkpoint follows where these settings, or its length, have changed since:
            "stored", those of the checkpoint, or "given", the new ones. Either says what has changed.

    Examples:
        >>> OptimizerSettings.of({"name": "lion", "lr": 1e-4}).betas is None
        True
    """

    name: Any = "adamw"
    options: dict[str, Any] = field(default_factory=dict)
    lr: float = 5e-4
    weight_decay: float = 0.2
    betas: tuple[float, float] | None = None
    eps: float | None = None
    warmup_steps: int | None = None
    schedule: str = "cosine"
    final_lr: float = 0.0
    decay_share: float = 0.2
    on_resume: str = "stored"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise InputError(f"lr {self.lr} must be > 0 and weight_decay {self.weight_decay} >= 0")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise InputError(f"warmup_steps {self.warmup_steps} must be >= 0")
        in_range("optimizer.decay_share", self.decay_share, 0, 1, open_low=True)
        for name, choices in (("schedule", _SCHEDULES), ("on_resume", ("stored", "given"))):
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"unknown {name} {value!r}: {nearest(value, choices)}")
        if not (isinstance(self.name, str | Mapping) or callable(self.name)):
            raise InputError(f"optimizer.name {self.name!r} must be a name, or a class or function that takes parameter groups")
        if self.name == "adamw" or is_muon(self.name):
            for key, value in _ADAMW.items():
                if getattr(self, key) is None:
                    object.__setattr__(self, key, value)

    @classmethod
    def of(cls, value: OptimizerSettings | Mapping[str, Any] | None) -> OptimizerSettings:
        """Settings from settings, a mapping, or None for the defaults."""
        if isinstance(value, cls):
            return value
        return built(cls, mapping(value, "optimizer"), "optimizer")

    def to_mapping(self) -> dict[str, Any]:
        """Plain types that `of` reads; an optimizer that was passed as an object is noted, to be passed again."""
        return {**plain(vars(self)), "name": note_of(self.name)}


def undecayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay leaves alone: gains, biases, temperature, rows of new tokens beside old ones.

    Those rows stand beside vectors that do not decay, and many batches have no gradient for them: decay would make them ever
    smaller than the tower knows words to be. Decided before a strategy wraps the model: afterwards shapes may be flattened,
    names stay.
    """
    return {name for name, parameter in model.named_parameters() if parameter.ndim < 2} | new_token_names(model)


class Rate(NamedTuple):
    """Peak learning rate and weight decay of a parameter."""

    lr: float
    weight_decay: float


def build_optimizer(
    model: nn.Module,
    settings: OptimizerSettings,
    undecayed: Collection[str],
    fused: bool = True,
    rates: Mapping[str, Rate] | None = None,
) -> Optimizer:
    """An optimizer over the trainable parameters in a decayed and an undecayed group, or in a group for each rate.

    Groups depend on names alone, which strategies keep: an optimizer's state goes from one strategy to another by name.
    Under Muon hidden matrices and the rest stand in groups of their own.

    Args:
        model: its parameters, wherever they are now.
        settings: which optimizer, its rates and decay.
        undecayed: names of parameters without decay.
        fused: one kernel for all parameters where the device has it and the optimizer knows it.
        rates: by name, of all parameters that are ever trained, some of which may be locked now; None takes one learning rate
            and the parameters that are trainable now.

    Raises:
        InputError: an unknown optimizer, or settings that it has not.
    """
    decayed, rest = Rate(settings.lr, settings.weight_decay), Rate(settings.lr, 0.0)
    first = [decayed, rest] if rates is None else []  # decayed parameters stand first, whatever the model begins with
    if rates is None:
        rates = {name: rest if name in undecayed else decayed for name in _trainable(model)}
    own = is_muon(settings.name)
    matrices = hidden_matrices(model) if own else set()
    named = [((rates[name], name in matrices), parameter) for name, parameter in model.named_parameters() if name in rates]
    order = [(rate, matrix) for rate in first for matrix in (True, False)]
    members: dict[tuple[Rate, bool], list[nn.Parameter]] = {key: [] for key in [*order, *(key for key, _ in named)]}
    for key, parameter in named:
        members[key].append(parameter)
    groups = [
        {"params": parameters, **rate._asdict(), **({"matrices": matrix} if own else {})}
        for (rate, matrix), parameters in members.items()
        if parameters
    ]
    fused = fused and all(parameter.device.type in ("cpu", "cuda") for _, parameter in named)
    known = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps, "fused": fused or None}
    return build_from(settings.name, groups, known, settings.options)


def _trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def build_scheduler(optimizer: Optimizer, settings: OptimizerSettings, total_steps: float) -> RunSchedule:
    """The schedule over a run of `total_steps` optimizer steps; a warm-up that would not end before the run is shortened.

    Raises:
        InputError: a schedule that has no end to fall to.
    """
    warmup, run_steps = settings.warmup_steps, total_steps
    if warmup is None:
        warmup = 2000 if math.isinf(total_steps) else min(2000, int(total_steps) // 10)
    if warmup >= total_steps:
        shorter = int(total_steps) // 10
        log.warning(
            "optimizer.warmup_steps %d is not shorter than the run of %d optimizer steps: %d are taken",
            warmup,
            int(total_steps),
            shorter,
        )
        warmup = shorter
    if settings.schedule == "constant":
        total_steps = math.inf
    elif math.isinf(total_steps):
        raise InputError(
            f"a {settings.schedule} schedule needs an end: set max_steps or max_epochs, or optimizer.schedule 'constant'"
        )
    decay = settings.decay_share if settings.schedule == "warmup_stable_decay" else None
    factor = RateShape(warmup, total_steps, settings.final_lr / settings.lr, decay)
    return RunSchedule(optimizer, factor, settings.on_resume, run_steps)
