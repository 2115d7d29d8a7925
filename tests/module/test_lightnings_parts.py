"""Lightning's own callbacks and plugins around a module: averages of weights, batch statistics, losses over all ranks."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from small import small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER as SHARED
from strategies.ranks import _ranks, fit
from torch import Tensor, nn
from waiting import free_port

from lightning_clip import ClipModule, InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.module.running import take_up
from lightning_clip.training.guard import ChanceWatch

OPTIMIZER = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant"}
CONVOLUTIONS = {"name": "resnet10t", "image_size": 32}


class Weights(pl.Callback):
    """Weights at the start of each epoch."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append([value.detach().double().clone() for value in pl_module.parameters()])


class TestAverages:
    def test_stochastic_weight_averaging_is_the_mean(self, tmp_path: Path) -> None:
        """Of the weights at the start of the second and third epoch, for every parameter."""
        module, weights = small_module(optimizer=OPTIMIZER), Weights()
        average = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2)
        trainer = small_trainer(tmp_path, max_steps=-1, max_epochs=3, callbacks=[weights, average], log_every_n_steps=1)
        trainer.fit(module, small_data(size=32))
        found = list(module.parameters())
        assert len(found) == len(weights.seen[0]) > 10 and average.n_averaged is not None and int(average.n_averaged) == 2
        moved = 0
        for value, second, third in zip(found, weights.seen[1], weights.seen[2], strict=True):
            torch.testing.assert_close(value.double(), (second + third) / 2, rtol=1e-5, atol=1e-6)
            moved += not torch.equal(second, third)
        assert moved > 10

    @pytest.mark.parametrize("callback", [EMAWeightAveraging, lambda: StochasticWeightAveraging(swa_lrs=1e-2)])
    def test_not_where_weights_are_spread(self, callback: Any, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, strategy="clip_fsdp2", callbacks=[callback()], max_epochs=2)
        with pytest.raises(
            InputError, match="keeps a copy of the whole model, which ClipFSDP2Strategy spreads .*: use strategy"
        ):
            trainer.fit(small_module(), small_data())


class TestBatchStatistics:
    def test_layers_are_synchronised_and_keep_their_activation(self) -> None:
        """timm's RegNet has its activations inside of the normalisation, where torch's conversion loses them."""
        module = small_module(image_encoder={"name": "regnetx_002", "image_size": 32}).eval()
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        expected = module.encode_image(pixels)
        strategy = SimpleNamespace(_layer_sync=object(), root_device=torch.device("cuda"))
        trainer = SimpleNamespace(strategy=strategy, callbacks=[], state=SimpleNamespace(fn=TrainerFn.FITTING))
        take_up(SimpleNamespace(trainer=trainer, model=module.model, objective=module.objective))
        layers = [layer for layer in module.model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        assert len(layers) > 10 and all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
        assert strategy._layer_sync is None  # Lightning, under DDP, does not convert them again
        torch.testing.assert_close(module.encode_image(pixels), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "clip_fsdp2"))
    def test_ranks_evaluate_one_model(self, strategy: str, tmp_path: Path) -> None:
        # Before the tests that start strategies in this process, whose threads a fork does not survive.
        first, second = ranks(tmp_path, strategy)
        assert len(first["statistics"]) > 10
        for one, other in zip(first["statistics"], second["statistics"], strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("strategy", ["auto", "ddp", "clip_fsdp2"])
    def test_not_on_cpus(self, strategy: str, tmp_path: Path) -> None:
        trainer = small_trainer(tmp_path, strategy=strategy, sync_batchnorm=True)
        if strategy == "auto":  # one device has nobody to agree with
            return trainer.fit(small_module(image_encoder=CONVOLUTIONS), small_data())
        with pytest.raises(InputError, match="sync_batchnorm needs accelerators: torch has no such layer for CPUs"):
            trainer.fit(small_module(image_encoder=CONVOLUTIONS), small_data())


class Statistics(pl.Callback):
    """Of a rank, as it evaluates."""

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.seen = [value.clone() for name, value in pl_module.model.named_buffers() if "running" in name]


def _fit(rank: int, world_size: int, folder: Path, strategy: str, port: int) -> dict[str, Any]:
    _ranks(rank, world_size, port)
    torch.manual_seed(0)
    statistics = Statistics()
    trainer = small_trainer(folder, strategy=strategy, devices=world_size, max_steps=2, callbacks=[statistics])
    trainer.fit(small_module(image_encoder=CONVOLUTIONS, optimizer=OPTIMIZER), small_data(size=16, batch=4))
    return {"statistics": statistics.seen}


def ranks(folder: Path, strategy: str) -> list[dict[str, Any]]:
    return run_ranks(_fit, 2, folder, strategy, free_port())


class Collapsed(ClipModule):
    """All features alike."""

    def encode(self, batch: PairBatch) -> ClipOutput:
        output = super().encode(batch)
        ones = {name: value * 0 + 0.25 for name, value in output.features.items()}
        return output._replace(features=ones)


def test_a_loss_at_chance_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = small_module(optimizer=OPTIMIZER).to_mapping()
    module = Collapsed(**arguments)
    module.chance.steps = 5
    small_trainer(tmp_path, max_steps=12, log_every_n_steps=2).fit(module, small_data(size=32))
    said = [record.message for record in caplog.records if "which is chance" in record.message]
    assert len(said) == 1 and "stayed at log 16 = 2.773 for 5 steps" in said[0] and "Lower optimizer.lr (it is 0.01)" in said[0]


def test_a_loss_that_leaves_chance_is_not() -> None:
    watch = ChanceWatch(steps=3)
    losses = [math.log(8) + by for by in (0.0, 0.001, 0.1, -0.001, 0.0, -0.5, 0.0, 0.0)]
    assert not any(watch.watch(torch.tensor(loss), 8, asked=True) for loss in losses)
    assert not watch.watch(torch.tensor(math.log(8)), 8, asked=False)  # counted, and said when it is asked
    assert watch.watch(torch.tensor(math.log(8)), 8, asked=True) and not watch.watch(torch.tensor(math.log(8)), 8, asked=True)


@pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "ddp"))
def test_logged_losses_are_of_all_rows(strategy: str, tmp_path: Path) -> None:
    """The loss of one step on two ranks is that of one process on the whole batch."""
    torch.manual_seed(0)
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(small_module(optimizer=SHARED), small_data(size=32, batch=16))
    expected = float(trainer.callback_metrics["train/loss"])
    found = fit(tmp_path, strategy=strategy, max_steps=1)["metrics"]["train/loss"]
    assert found == pytest.approx(expected, abs=1e-5)
