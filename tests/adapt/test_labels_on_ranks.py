"""Learning from labels on two gloo ranks, whole and sharded: losses, metrics and weights of one process."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from adapt.labelled import SETTINGS, labelled_data
from adapt.test_locking import assert_near
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, small_trainer
from strategies.ranks import _ranks, _whole

from lightning_clip import ClipModule
from lightning_clip.adapt import (
    ClassifierModule,
    ClipAdapterModule,
    CoopModule,
    FlypModule,
    SupervisedModule,
)
from lightning_clip.data.synthetic import combination_names
from lightning_clip.strategies import ClipFSDP2Strategy

OPTIMIZER = {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0, "schedule": "constant"}
LEARNING: dict[str, tuple[type[ClipModule], dict[str, Any]]] = {
    "classifier": (ClassifierModule, {}),
    "classifier_sliced": (ClassifierModule, {"micro_batch_size": 4, "label_smoothing": 0.1}),
    "head": (ClassifierModule, {"head_only": True}),
    "adapter": (ClipAdapterModule, {"ratio": 0.5}),
    "coop": (CoopModule, {"context": 3}),
    "coop_by_class": (CoopModule, {"context": "a photo of", "class_specific": True}),
    "flyp": (FlypModule, {}),
    "flyp_sliced": (FlypModule, {"micro_batch_size": 4}),
}


class Losses(pl.Callback):
    """The loss of each step on this rank."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
        self.found.append(float(trainer.callback_metrics["train/loss"]))


def train(folder: Path, kind: type[ClipModule], arguments: dict[str, Any], ranks: int = 1, **settings: Any) -> dict[str, Any]:
    """What a rank has after training, or after `do`, another method of the Trainer."""
    torch.manual_seed(settings.pop("seed", 0))
    names = {"class_names": combination_names(held_out=True)} if issubclass(kind, SupervisedModule) else {}
    module: Any = kind(IMAGE, TEXT, **{**SETTINGS, "optimizer": OPTIMIZER, **names, **arguments})
    do, save, resume, losses = settings.pop("do", "fit"), settings.pop("save", None), settings.pop("resume", None), Losses()
    trainer = small_trainer(folder, devices=ranks, callbacks=[losses], **{"max_steps": 3, **settings})
    getattr(trainer, do)(module, datamodule=labelled_data(batch=16 // ranks), **({"ckpt_path": resume} if resume else {}))
    if save:
        trainer.save_checkpoint(save)
    weights = {name: _whole(value) for name, value in module.state_dict().items()}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"losses": losses.found, "weights": weights, "metrics": metrics}


def _train(rank: int, world_size: int, port: int, strategy: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
    _ranks(rank, world_size, port)
    strategy = ClipFSDP2Strategy(**strategy) if isinstance(strategy, dict) else strategy
    folder, kind, options, others = arguments
    return train(folder, kind, options, world_size, strategy=strategy, **others)


def on_ranks(folder: Path, strategy: Any, kind: Any, options: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return run_ranks(_train, 2, port, strategy, folder, kind, options, settings, timeout=100)


def assert_as_alone(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """The loss of a step is the mean over its ranks; what is measured on labels does not depend on batches."""
    for step, loss in enumerate(expected["losses"]):
        assert sum(rank["losses"][step] for rank in found) / len(found) == pytest.approx(loss, rel=1e-5)
    for name, value in expected["metrics"].items():
        if "val/classification/top1" in expected["metrics"] and name.startswith("val/"):
            assert found[0]["metrics"][name] == pytest.approx(value, rel=1e-4), name
    assert_near(found[0]["weights"], expected["weights"])


@pytest.mark.parametrize("strategy", ["ddp", "clip_fsdp2"])
@pytest.mark.parametrize("kind", LEARNING)
def test_as_one_process(tmp_path: Path, kind: str, strategy: str) -> None:
    """Validation, in which each rank has whole weights, after every step."""
    expected = train(tmp_path, *LEARNING[kind])
    found = on_ranks(tmp_path, strategy, *LEARNING[kind])
    assert len(expected["losses"]) == 3 and expected["losses"][0] != expected["losses"][2]
    assert_as_alone(found, expected)
