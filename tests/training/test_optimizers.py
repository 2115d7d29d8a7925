"""Optimizers by name and as objects: Muon against its formula, on ranks and shards, resumed; schedules with a plateau."""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_data, small_module, small_trainer
from strategies.ranks import alone, assert_same, fit
from torch import Tensor, nn

from lightning_clip import ClipModule, InputError
from lightning_clip.planning.memory import optimizer_bytes
from lightning_clip.training.optim import OptimizerSettings, build_optimizer, undecayed_names
from lightning_clip.training.optimizers import hidden_matrices, optimizers

MUON = {"name": "muon", "lr": 1e-2, "eps": 1e-2, "warmup_steps": 0, "schedule": "constant"}


COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


def newton_schulz(matrix: Tensor) -> Tensor:
    """The iteration on singular values alone, in float64: s <- a s + b s^3 + c s^5."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for a, b, c in COEFFICIENTS:
        values = a * values + b * values**3 + c * values**5
    return left * values @ right


class TestMuon:
    def test_hidden_matrices_alone(self) -> None:
        model = small_module().model
        found = hidden_matrices(model)
        assert {name.partition(".")[0] for name in found} == {"image_encoder", "text_encoder"}
        assert not [name for name in found if "embedding" in name or "pos_embed" in name or "bias" in name]
        blocks = [name for name, weight in model.named_parameters() if ".blocks." in name and weight.ndim == 2]
        assert blocks and set(blocks) <= found

    def test_a_step_is_the_formula_s(self) -> None:
        """Nesterov's momentum, made orthogonal, 0.2 sqrt(max(m, n)) large (Liu et al. 2025, equation 4); AdamW for the rest."""
        torch.manual_seed(0)
        model = nn.ModuleDict({"image_encoder": nn.Linear(12, 8)})
        settings = OptimizerSettings(name="muon", lr=0.1, weight_decay=0.2)
        optimizer = build_optimizer(model, settings, undecayed_names(model))
        weight, bias = model["image_encoder"].weight, model["image_encoder"].bias
        before, bias_before = weight.detach().double(), bias.detach().clone()
        momentum = torch.zeros(8, 12, dtype=torch.float64)
        for _ in range(3):
            weight.grad, bias.grad = torch.randn(8, 12), torch.ones(8)
            gradient = weight.grad.double()
            momentum = 0.95 * momentum + 0.05 * gradient
            step = newton_schulz(0.05 * gradient + 0.95 * momentum)
            before = before * (1 - 0.1 * 0.2) - 0.1 * 0.2 * math.sqrt(12) * step
            optimizer.step()
        error = (weight.detach().double() - before).norm() / before.norm()
        assert error <= 1e-5
        assert torch.allclose(bias, bias_before - 0.3, atol=1e-5)  # a constant gradient moves AdamW by lr a step, no decay

    def test_filters_of_convolutions_are_matrices(self) -> None:
        torch.manual_seed(0)
        model = nn.ModuleDict({"image_encoder": nn.Conv2d(3, 8, 2, bias=False)})
        optimizer = build_optimizer(model, OptimizerSettings(name="muon", lr=1.0, weight_decay=0.0), set())
        weight = model["image_encoder"].weight
        before, weight.grad = weight.detach().clone(), torch.randn(8, 3, 2, 2)
        optimizer.step()
        step = (before - weight.detach()).flatten(1) / (0.2 * math.sqrt(12))
        assert torch.allclose(step.double(), newton_schulz(weight.grad.flatten(1)), atol=1e-4)

    def test_without_a_gradient(self) -> None:
        model = nn.ModuleDict({"image_encoder": nn.Linear(8, 8)})
        optimizer = build_optimizer(model, OptimizerSettings(name="muon", weight_decay=0.0), set())
        weight = model["image_encoder"].weight
        weight.grad, before = torch.zeros(8, 8), weight.detach().clone()
        optimizer.step()
        assert torch.equal(weight, before)

    def test_on_ranks_and_shards_as_in_one_process(self, tmp_path: Path) -> None:
        whole = alone(tmp_path, optimizer=MUON, max_steps=2)
        for strategy in ("ddp", {"meta_init": False}):
            assert_same(fit(tmp_path, strategy=strategy, optimizer=MUON, max_steps=2)["weights"], whole)

    def test_under_deepspeed(self, tmp_path: Path) -> None:
        from lightning_clip.module.optimizing import configure
        from lightning_clip.strategies.deepspeed import ClipDeepSpeedStrategy

        module = small_module(optimizer=MUON)
        module.trainer = small_trainer(tmp_path)
        module.trainer.strategy.__class__ = type("Fake", (ClipDeepSpeedStrategy,), {})
        with pytest.raises(InputError, match="'muon' needs whole matrices, which DeepSpeed flattens: use strategy"):
            configure(module)

    def test_its_memory_is_one_moment_of_matrices(self) -> None:
        model = nn.ModuleDict({"image_encoder": nn.Linear(100, 100, bias=False), "head": nn.Linear(100, 100, bias=False)})
        optimizer = build_optimizer(model, OptimizerSettings(name="muon"), set())
        assert optimizer_bytes(optimizer) == 4 * 100 * 100 + (8 * 100 * 100 + 4)


def run(
    folder: Path, optimizer: Any, steps: int = 4, resume: Path | None = None, save: Path | None = None
) -> dict[str, Tensor]:
    torch.manual_seed(0 if resume is None else 5)
    module, trainer = small_module(optimizer=optimizer), small_trainer(folder, max_steps=steps)
    trainer.fit(module, small_data(size=32, batch=8), ckpt_path=resume)
    if save is not None:
        trainer.save_checkpoint(save)
    return {name: value.clone() for name, value in module.state_dict().items()}


class TestNames:
    @pytest.mark.parametrize("name", ["muon", "lion", "adamuon", "adamw"])
    def test_a_resumed_run_ends_as_the_whole_one(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        settings = {"name": name, "lr": 1e-3, "warmup_steps": 0, "schedule": "constant"}
        whole = run(tmp_path, settings)
        run(tmp_path, settings, steps=2, save=tmp_path / "half.ckpt")
        again = run(tmp_path, settings, resume=tmp_path / "half.ckpt")
        assert all(torch.equal(again[key], value) for key, value in whole.items())
        assert "other settings" not in caplog.text
        assert ClipModule.load_from_checkpoint(tmp_path / "half.ckpt").training_settings.optimizer.name == name

    def test_an_object(self, tmp_path: Path) -> None:
        """It is used as it is given; a checkpoint asks for it again, but only to train."""
        sgd = functools.partial(torch.optim.SGD, momentum=0.9)
        settings = {"name": sgd, "lr": 1e-3, "options": {"nesterov": True}, "schedule": "constant"}
        module, trainer = small_module(optimizer=settings), small_trainer(tmp_path, max_steps=1)
        trainer.fit(module, small_data(size=16, batch=8))
        assert type(trainer.optimizers[0]) is torch.optim.SGD and trainer.optimizers[0].param_groups[0]["nesterov"]
        trainer.save_checkpoint(tmp_path / "sgd.ckpt")
        loaded = ClipModule.load_from_checkpoint(tmp_path / "sgd.ckpt")
        assert loaded.zero_shot_classifier(["cat"], "simple").shape == (16, 1)
        with pytest.raises(InputError, match=r"written with a live SGD as optimizer, which it cannot hold: pass it again"):
            small_trainer(tmp_path, max_steps=1).fit(loaded, small_data(size=16, batch=8))

    def test_a_registered_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(optimizers, "_factories", dict(optimizers._factories))
        optimizers.register("my_sgd")(torch.optim.SGD)
        built = build_optimizer(nn.Linear(2, 2), OptimizerSettings(name="my_sgd", lr=3.0), set())
        assert isinstance(built, torch.optim.SGD) and built.param_groups[0]["lr"] == 3.0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"name": "adamv"}, "unknown optimizer 'adamv': did you mean 'adamw'"),
            ({"name": "adahessian"}, "'adahessian' needs second derivatives, which a step does not compute"),
            ({"name": "lion", "options": {"moment": 1}}, "optimizer 'lion' has no setting 'moment'"),
            ({"name": "muon", "options": {"momentum": 2.0}}, "optimizer 'muon' does not take its settings"),
            ({"name": 3}, "optimizer.name 3 must be a name, or a class or function that takes parameter groups"),
            ({"decay_share": 0.0}, "optimizer.decay_share 0.0 must be a number > 0 and <= 1"),
            ({"schedule": "wsd"}, "unknown schedule 'wsd'"),
        ],
    )
    def test_mistakes(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            build_optimizer(nn.Linear(2, 2), OptimizerSettings(**settings), set())

    def test_another_optimizer_s_checkpoint(self, tmp_path: Path) -> None:
        run(tmp_path, {"lr": 1e-3}, steps=1, save=tmp_path / "adamw.ckpt")
        with pytest.raises(InputError, match="written with optimizer 'adamw' and this run has 'muon', whose state is another"):
            run(tmp_path, {"name": "muon", "lr": 1e-3}, resume=tmp_path / "adamw.ckpt")


class TestWarmupStableDecay:
    def test_its_rates(self, tmp_path: Path) -> None:
        from training.test_schedule import run as rates_of

        settings = {"lr": 1.0e-3, "warmup_steps": 2, "schedule": "warmup_stable_decay", "decay_share": 0.5, "final_lr": 1e-4}
        rates, _ = rates_of(tmp_path, 8, settings)
        fall = [1e-4 + 9e-4 * (1 - math.sqrt(step / 4)) for step in range(4)]
        assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, *fall])

    def test_a_longer_run_from_its_plateau(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What it is for: a checkpoint of the plateau goes on to any length, and the change is said."""
        from training.test_schedule import run as rates_of

        settings = {"lr": 1e-3, "warmup_steps": 0, "schedule": "warmup_stable_decay", "decay_share": 0.25}
        rates_of(tmp_path, 8, settings, stop=4)
        with caplog.at_level(logging.WARNING):
            rates, _ = rates_of(tmp_path, 16, {**settings, "on_resume": "given"}, resume=True)
        assert rates == pytest.approx([1e-3] * 8 + [1e-3 * (1 - math.sqrt(step / 4)) for step in range(4)])
        assert "optimizer steps of the run was 8 and is 16" in caplog.text
        with caplog.at_level(logging.WARNING):
            rates_of(tmp_path, 8, {**settings, "decay_share": 0.5}, resume=True)
        assert "decay_share was 0.25 and is 0.5" in caplog.text
