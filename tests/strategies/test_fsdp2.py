"""FSDP2 on two gloo ranks: the weights of one process, callbacks, checkpoints in both forms, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from small import small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER, alone, assert_same, fit, refusal

from lightning_clip import ClipModule, InputError, Retrieval, ZeroShotClassification
from lightning_clip.strategies import check_strategy
from lightning_clip.training.guard import check_even


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    """Weights of a run on two ranks, and its checkpoint in one file."""
    folder = tmp_path_factory.mktemp("ranks")
    return fit(folder, save=folder / "full.ckpt")["weights"], folder / "full.ckpt"


@pytest.fixture(scope="module")
def in_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the same run in one process."""
    return dict(alone(tmp_path_factory.mktemp("one")))


class TestSameWeights:
    def test_as_one_process(self, on_ranks: tuple[dict[str, torch.Tensor], Path], in_one: dict[str, torch.Tensor]) -> None:
        """Also the first weights: rank 1 draws others and builds none."""
        assert_same(on_ranks[0], in_one)

    @pytest.mark.slow  # quicker: test_as_one_process, tests/variants/test_variants.py
    def test_in_micro_batches_with_checkpointed_blocks_and_clipping(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"gradient_clip_val": 0.1}
        found = fit(tmp_path, micro_batch_size=2, execution={"checkpoint": ["image", "text"]}, **settings)
        assert_same(found["weights"], alone(tmp_path, **settings))

    def test_offloaded(self, tmp_path: Path, in_one: dict[str, torch.Tensor]) -> None:
        assert_same(fit(tmp_path, strategy={"cpu_offload": True, "meta_init": False})["weights"], in_one)

    @pytest.mark.slow
    def test_hybrid_on_four_ranks(self, tmp_path: Path) -> None:
        assert_same(fit(tmp_path, 4, strategy={"replicate": 2})["weights"], alone(tmp_path))


def test_callbacks_and_logged_values(tmp_path: Path) -> None:
    held_out = {"name": "synthetic", "held_out": True, "size": 13, "image_size": 32}
    callbacks = [ZeroShotClassification({"held_out": held_out}), Retrieval()]
    metrics = fit(tmp_path, callbacks=callbacks, max_steps=2)["metrics"]
    assert {"val/zero_shot/held_out/top1", "val/retrieval/text_to_image/recall@1", "train/gradient_norm"} <= set(metrics)


class TestCheckpoints:
    @pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.slow), True], ids=["full", "sharded"])
    def test_resumes_where_it_stopped(
        self, tmp_path: Path, sharded: bool, on_ranks: tuple[dict[str, torch.Tensor], Path]
    ) -> None:
        strategy, path = {"sharded_checkpoint": sharded}, tmp_path / "half.ckpt"
        fit(tmp_path, strategy=strategy, max_steps=2, save=path)
        assert path.is_dir() == sharded
        assert_same(fit(tmp_path, strategy=strategy, resume=path, seed=5)["weights"], on_ranks[0])

    def test_a_full_one_is_that_of_one_process(self, on_ranks: tuple[dict[str, torch.Tensor], Path]) -> None:
        weights, path = on_ranks
        loaded = ClipModule.load_from_checkpoint(path)
        assert_same(dict(loaded.state_dict()), weights)

    @pytest.mark.slow
    def test_from_one_process_to_ranks_and_back(self, tmp_path: Path) -> None:
        """The optimizer's moments too: the resumed runs end where the whole run does."""
        whole = alone(tmp_path, max_steps=6)
        torch.manual_seed(0)
        module, trainer = small_module(optimizer=OPTIMIZER), small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data(size=32, batch=16))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        fit(tmp_path, resume=tmp_path / "one.ckpt", max_steps=4, save=tmp_path / "two.ckpt")
        again = small_module(optimizer=OPTIMIZER)
        small_trainer(tmp_path, max_steps=6).fit(again, small_data(size=32, batch=16), ckpt_path=tmp_path / "two.ckpt")
        assert_same(dict(again.state_dict()), whole)


def _uneven(rank: int, world_size: int) -> str:
    try:
        check_even([4, 3][rank], torch.device("cpu"))
    except InputError as error:
        return str(error)
    return "no error"


def _float16(folder: Path) -> None:
    small_trainer(folder, strategy="clip_fsdp2", precision="16-true").fit(small_module(), small_data())


def _own_sharding(folder: Path) -> None:
    small_trainer(folder, strategy=ModelParallelStrategy(), devices=1).fit(small_module(), small_data())


def _another_module(folder: Path) -> None:
    class Other(BoringModel):
        def configure_model(self) -> None: ...

    small_trainer(folder, strategy="clip_fsdp2", devices=1).fit(Other())


class TestRefused:
    def test_batches_of_different_size(self) -> None:
        for found in run_ranks(_uneven, 2):
            assert "need batches of one size, they have [4, 3]: mend or remove" in found

    def test_copies_that_do_not_divide_the_ranks(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="replicate 3 does not divide the 2 ranks"):
            fit(tmp_path, strategy={"replicate": 3})

    @pytest.mark.parametrize(
        ("fit_refused", "message"),
        [
            (_float16, "clip_fsdp2 does not work with precision '16-true': use one of 32-true, bf16"),
            (_own_sharding, "use strategy 'clip_fsdp2'"),
            (_another_module, "clip_fsdp2 shards a ClipModule, not Other"),
        ],
    )
    def test_before_anything_is_built(self, tmp_path: Path, fit_refused: Callable[[Path], None], message: str) -> None:
        assert message in refusal(fit_refused, tmp_path)

    @pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy()], ids=["fsdp", "model_parallel"])
    def test_other_sharding_strategies(self, strategy: Strategy) -> None:
        """On the CPU the Trainer itself refuses "fsdp": asked here is what a module says that meets it."""
        with pytest.raises(InputError, match="would not shard the two towers by their blocks .* use strategy 'clip_fsdp2'"):
            check_strategy(strategy)
