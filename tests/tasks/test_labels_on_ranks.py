"""Learning from labels on two gloo ranks, whole and sharded: losses, metrics and weights of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from adapt.test_locking import assert_near
from corners import corners
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, arguments_of, small_trainer
from strategies.ranks import _ranks, _whole
from tasks.labelled import GIVEN, SETTINGS, labelled_data
from torch import Tensor, nn
from waiting import free_port

from lightning_clip import ClipModule, InputError
from lightning_clip.data.synthetic import combination_names
from lightning_clip.merging.mixing import write_checkpoint
from lightning_clip.model.space import SharedSpace
from lightning_clip.strategies import ClipDeepSpeedStrategy, ClipFSDP2Strategy
from lightning_clip.strategies.consolidate import consolidate
from lightning_clip.tasks import (
    ClassifierHead,
    ClassifierModule,
    ClipAdapterModule,
    CoopModule,
    DistillationModule,
    FlypModule,
    SupervisedModule,
    TipAdapterModule,
)

OPTIMIZER = {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0, "schedule": "constant"}
LEARNING: dict[str, tuple[type[ClipModule], dict[str, Any]]] = {
    "classifier": (ClassifierModule, {}),
    "classifier_sliced": (ClassifierModule, {"micro_batch_size": 4, "label_smoothing": 0.1}),
    "head": (ClassifierModule, {"head_only": True}),
    "lora": (ClassifierModule, {"adapt": {"image": {"lora": {"rank": 2}, "lr": 5e-3}}}),
    # An odd number of rows for two ranks; of so many, some pass the ReLUs whatever the random start is.
    "adapter": (ClipAdapterModule, {"ratio": 0.5, "reduction": 1, "embed_dim": 33}),
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
    module: Any = kind(IMAGE, TEXT, **arguments_of(**{**SETTINGS, "optimizer": OPTIMIZER, **names, **arguments}))
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
    return run_ranks(_train, 2, free_port(), strategy, folder, kind, options, settings)


def assert_as_alone(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """The loss of a step is the mean over its ranks; what is measured on labels does not depend on batches."""
    for step, loss in enumerate(expected["losses"]):
        assert sum(rank["losses"][step] for rank in found) / len(found) == pytest.approx(loss, rel=1e-5)
    for name, value in expected["metrics"].items():
        if "val/classification/top1" in expected["metrics"] and name.startswith("val/"):
            assert found[0]["metrics"][name] == pytest.approx(value, rel=1e-4), name
    assert_near(found[0]["weights"], expected["weights"])


@pytest.mark.parametrize(
    ("kind", "strategy"),
    corners(
        [(kind, strategy) for kind in LEARNING for strategy in ("ddp", "clip_fsdp2")],
        ("classifier_sliced", "ddp"),
        ("coop", "clip_fsdp2"),
        ("flyp", "ddp"),
    ),
)
def test_as_one_process(tmp_path: Path, kind: str, strategy: str) -> None:
    """Validation, in which each rank has whole weights, after every step."""
    expected = train(tmp_path, *LEARNING[kind])
    found = on_ranks(tmp_path, strategy, *LEARNING[kind])
    assert len(expected["losses"]) == 3 and expected["losses"][0] != expected["losses"][2]
    assert_as_alone(found, expected)


class TestSharded:
    @pytest.mark.slow
    def test_in_other_ways(self, tmp_path: Path) -> None:
        expected = train(tmp_path, ClassifierModule, {})
        for strategy in ({"cpu_offload": True, "meta_init": False}, {"replicate": 2}):
            assert_as_alone(on_ranks(tmp_path, strategy, ClassifierModule, {}), expected)

    @pytest.mark.parametrize("kind", corners(["classifier", "adapter", "coop"], "coop"))
    def test_measured_before_it_is_trained(self, tmp_path: Path, kind: str) -> None:
        """What learns is filled before evaluation gathers the weights, so that it stays."""
        expected = train(tmp_path, *LEARNING[kind], do="validate")
        found = on_ranks(tmp_path, "clip_fsdp2", *LEARNING[kind], do="validate")
        assert found[0]["weights"]["model.classes.started"]
        assert_as_alone(found, expected)

    @pytest.mark.slow  # quicker: test_as_one_process
    @pytest.mark.parametrize("kind", corners(["classifier", "coop"], "classifier"))
    def test_from_one_process_to_ranks_and_back(self, tmp_path: Path, kind: str) -> None:
        """The optimizer's moments too; what was learned is not filled anew."""
        whole = train(tmp_path, *LEARNING[kind], max_steps=6)
        train(tmp_path, *LEARNING[kind], max_steps=2, save=tmp_path / "one.ckpt")
        resumed = {"max_steps": 4, "resume": tmp_path / "one.ckpt", "save": tmp_path / "two.ckpt", "seed": 5}
        on_ranks(tmp_path, "clip_fsdp2", *LEARNING[kind], **resumed)
        found = train(tmp_path, *LEARNING[kind], max_steps=6, resume=tmp_path / "two.ckpt", seed=6)
        assert_near(found["weights"], whole["weights"])
        loaded: Any = ClipModule.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
        assert type(loaded) is LEARNING[kind][0] and loaded.model.classes.started

    @pytest.mark.slow
    def test_in_parts(self, tmp_path: Path) -> None:
        strategy, path = {"sharded_checkpoint": True}, tmp_path / "parts.ckpt"
        found = on_ranks(tmp_path, strategy, ClassifierModule, {}, save=path)[0]["weights"]
        torch.save(consolidate(path), tmp_path / "one.ckpt")
        assert_near(dict(ClipModule.load_from_checkpoint(tmp_path / "one.ckpt").state_dict()), found)
        whole = train(tmp_path, ClassifierModule, {}, max_steps=5)["weights"]
        assert_near(on_ranks(tmp_path, strategy, ClassifierModule, {}, max_steps=5, resume=path)[0]["weights"], whole)

    @pytest.mark.slow
    def test_parts_of_other_modules(self, tmp_path: Path) -> None:
        """Bridges from a student to its teacher, whose forward is asked behind that of the towers."""
        torch.manual_seed(5)
        teacher = ClipModule(IMAGE, TEXT, **arguments_of(**{**SETTINGS, "embed_dim": 24}))
        teacher.configure_model()
        write_checkpoint(teacher, tmp_path / "teacher.ckpt")
        options = {"teachers": str(tmp_path / "teacher.ckpt"), "features": 1.0}
        expected = train(tmp_path, DistillationModule, options)
        assert_as_alone(on_ranks(tmp_path, "clip_fsdp2", DistillationModule, options), expected)


class Bare(ClassifierHead):
    """Reads its weights without a forward."""

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        bare = nn.Module()
        bare.weight = nn.Parameter(torch.zeros(num_classes, space.embed_dim))
        return bare

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        weight: Any = space.classes.weight
        return image_features @ weight.T  # type: ignore[no-any-return]


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "options", "name"),
        [
            (TipAdapterModule, {"entries": 16}, "TipAdapterF"),
            (ClipModule, {"objective": Bare(combination_names(held_out=True))}, "Bare"),
        ],
        ids=["tip", "own"],
    )
    def test_what_is_read_without_a_forward(self, tmp_path: Path, kind: Any, options: dict[str, Any], name: str) -> None:
        """Asked in ranks: a process group that this process began would be inherited by those of other tests."""
        train(tmp_path, kind, options, max_steps=1)
        message = rf"{name} reads what it learns elsewhere than in a forward of model.classes, where clip_fsdp2"
        with pytest.raises(AssertionError, match=message):
            on_ranks(tmp_path, "clip_fsdp2", kind, options)

    def test_deepspeed(self) -> None:
        module = ClassifierModule(IMAGE, TEXT, class_names=["a", "b"], **GIVEN)
        strategy = ClipDeepSpeedStrategy.__new__(ClipDeepSpeedStrategy)
        with pytest.raises(InputError, match="ClassifierHead fills what it learns .* DeepSpeed's own .* use strategy 'clip_fs"):
            module.classes.check_strategy(strategy, module.model)
