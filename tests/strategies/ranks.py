"""Runs of the smallest module on gloo ranks under a strategy, and on one process, to be compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from small import small_data, small_module, small_trainer
from torch import Tensor
from waiting import free_port

from lightning_clip import InputError
from lightning_clip.strategies import ClipFSDP2Strategy

OPTIMIZER = {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0, "schedule": "constant"}


def _ranks(rank: int, world_size: int, port: int) -> None:
    """What a launcher such as torchrun sets."""
    values = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in values.items()})


def _fit(rank: int, world_size: int, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    _ranks(rank, world_size, settings.pop("port"))
    torch.manual_seed(settings.pop("seed", 0))
    strategy = settings.pop("strategy", "clip_fsdp2")
    trainer = {key: settings.pop(key) for key in list(settings) if key in ("gradient_clip_val", "max_steps", "callbacks")}
    save, resume = settings.pop("save", None), settings.pop("resume", None)
    module = small_module(**{"optimizer": OPTIMIZER, **settings})
    strategy = ClipFSDP2Strategy(**strategy) if isinstance(strategy, dict) else strategy() if callable(strategy) else strategy
    fitting = small_trainer(folder, strategy=strategy, devices=world_size, **trainer)
    fitting.fit(module, small_data(size=32, batch=16 // world_size), ckpt_path=resume)
    if save:
        fitting.save_checkpoint(save)
    state = {name: _whole(value) for name, value in module.state_dict().items()}
    return {"weights": state, "metrics": {key: float(value) for key, value in fitting.callback_metrics.items()}}


def _whole(value: Any) -> Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


def fit(folder: Path, world_size: int = 2, **settings: Any) -> dict[str, Any]:
    return run_ranks(_fit, world_size, folder, {"port": free_port(), **settings})[0]


def alone(folder: Path, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    trainer = {key: settings.pop(key) for key in list(settings) if key in ("gradient_clip_val", "max_steps")}
    module = small_module(**{"optimizer": OPTIMIZER, **settings})
    small_trainer(folder, **trainer).fit(module, small_data(size=32, batch=16))
    return {name: value.clone() for name, value in module.state_dict().items()}


def refusal(attempt: Callable[..., None], *args: Any) -> str:
    """What an attempt is refused with, asked in a process of its own: ranks of other tests would inherit what it began."""
    return run_ranks(_refusal, 1, attempt, args)[0]


def _refusal(rank: int, world_size: int, attempt: Callable[..., None], args: tuple[Any, ...]) -> str:
    with pytest.raises(InputError) as refused:
        attempt(*args)
    return str(refused.value)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name] - value).double().norm() <= 1e-5 * value.double().norm(), name
