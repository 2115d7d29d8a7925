"""Settings of a run for the loggers' hyperparameters: the Trainer's, the machine's and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import torch

import lightning_clip

__all__ = ["flat", "run_settings"]


def run_settings(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What decides a run besides the hyperparameters that module and data record themselves.

    Args:
        trainer: of the run.
        module: built.
    """
    parameters = list(module.parameters())
    return {
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "strategy": type(trainer.strategy).__name__,
        "world_size": trainer.world_size,
        "device": trainer.strategy.root_device.type,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "lightning_clip": lightning_clip.__version__,
    }


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as one level of plain values, which is what loggers' tables hold.

    Args:
        settings: of mappings, lists and values.
        above: prefix of the names.

    Examples:
        >>> flat({"model": {"embed_dim": 64, "heads": [1, 2]}, "seed": None})
        {'model/embed_dim': 64, 'model/heads': '[1, 2]', 'seed': 'None'}
    """
    found: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{above}{key}/"))
        else:
            found[f"{above}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
