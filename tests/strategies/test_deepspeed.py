"""DeepSpeed on two gloo ranks of CPUs: the weights of one process, callbacks, checkpoints; and errors where it cannot run."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from small import small_module, small_trainer
from strategies.ranks import alone, assert_same, fit
from torch import Tensor

from lightning_clip import ClipModule, InputError, Retrieval, SoftmaxContrastiveLoss, ZeroShotClassification
from lightning_clip.strategies import ClipDeepSpeedStrategy
from lightning_clip.strategies import deepspeed as room
from lightning_clip.strategies.consolidate import consolidate

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
TORN = {  # each weight in parts, however small
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}


class OnCpu(ClipDeepSpeedStrategy):
    """What Lightning forbids and DeepSpeed can: ranks without CUDA."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(process_group_backend="gloo", **settings)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def on_cpu(**settings: Any) -> Any:
    """Made in the rank: DeepSpeed looks for its accelerator when it is imported."""

    def make() -> OnCpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        return OnCpu(**settings)

    return make


def trained(folder: Path, stage: int, **settings: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights, read from the checkpoint that the ranks wrote, and metrics."""
    path = folder / f"stage_{stage}.ckpt"
    config = {"config": TORN} if stage == 3 else {}
    found = fit(folder, strategy=on_cpu(stage=stage, **config), save=path, **settings)
    return consolidate(path, allow_pickle=True)["state_dict"], found["metrics"]


@needs_deepspeed
@pytest.mark.slow
class TestRuns:
    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_as_one_process(self, tmp_path: Path, stage: int) -> None:
        weights, metrics = trained(tmp_path, stage, max_steps=5)
        assert_same(weights, alone(tmp_path, max_steps=5))
        assert metrics["train/gradient_norm"] > 0

    @pytest.mark.parametrize("stage", [2, 3])
    def test_clipped_in_micro_batches_with_checkpointed_blocks(self, tmp_path: Path, stage: int) -> None:
        execution = {"checkpoint": ["image", "text"]}
        weights, _ = trained(tmp_path, stage, gradient_clip_val=0.1, micro_batch_size=2, execution=execution)
        assert_same(weights, alone(tmp_path, gradient_clip_val=0.1))

    @pytest.mark.parametrize("stage", [2, 3])
    def test_callbacks_on_uneven_shares(self, tmp_path: Path, stage: int) -> None:
        held_out = {"name": "synthetic", "held_out": True, "size": 13, "image_size": 32}
        callbacks = [ZeroShotClassification({"held_out": held_out}, local_batch_size=3), Retrieval()]
        _, metrics = trained(tmp_path, stage, callbacks=callbacks, max_steps=4)
        assert {"val/zero_shot/held_out/top1", "val/retrieval/text_to_image/recall@1"} <= set(metrics)

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_scale_is_clamped_in_the_optimizer_too(self, tmp_path: Path, stage: int) -> None:
        loss = {"name": "softmax", "initial_scale": 3.0, "max_scale": 3.0}
        weights, _ = trained(tmp_path, stage, loss=loss)
        expected = alone(tmp_path, loss=loss)
        assert_same(weights, expected)
        assert weights["model.logit_scale"].exp() <= 3.0001

    @pytest.mark.parametrize("stage", [2, 3])
    def test_resumes_and_becomes_one_file(self, tmp_path: Path, stage: int) -> None:
        trained(tmp_path, stage, max_steps=2)
        path = tmp_path / f"stage_{stage}.ckpt"
        torch.save(consolidate(path, allow_pickle=True), tmp_path / "one.ckpt")
        assert ClipModule.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True).embed_dim == 16
        (tmp_path / "more").mkdir()
        weights, _ = trained(tmp_path / "more", stage, max_steps=4, resume=path, seed=5)
        assert_same(weights, alone(tmp_path, max_steps=4))


class TestRefused:
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room, "find_spec", lambda name: None)
        with pytest.raises(
            InputError, match=r"stage_2 needs DeepSpeed, which is not installed: pip install 'lightning-clip\[dee"
        ):
            StrategyRegistry.get("clip_deepspeed_stage_2")

    @needs_deepspeed
    def test_on_a_cpu(self, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, strategy="clip_deepspeed_stage_2")
        with pytest.raises(InputError, match="runs on CUDA devices, not on CPUAccelerator: use strategy 'clip_fsdp2'"):
            trainer.fit(small_module(loss=SoftmaxContrastiveLoss()))

    @needs_deepspeed
    def test_unknown_stage(self) -> None:
        with pytest.raises(InputError, match="stage 4 is none of 1, 2, 3"):
            ClipDeepSpeedStrategy(4)

    @needs_deepspeed
    def test_a_file_of_another_strategy(self, tmp_path: Path) -> None:
        (tmp_path / "last.ckpt").write_text("one file")
        with pytest.raises(
            InputError, match=r"last.ckpt' was not written by DeepSpeed, .* resume under the strategy that wrote"
        ):
            ClipDeepSpeedStrategy().load_checkpoint(tmp_path / "last.ckpt")
