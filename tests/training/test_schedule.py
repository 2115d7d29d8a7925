"""The learning rate of a run that goes on from a checkpoint under the same settings and under others."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small import small_data, small_module, small_trainer

from lightning_clip import InputError
from lightning_clip.training.optim import OptimizerSettings, build_scheduler

FIRST = {"lr": 1e-3, "warmup_steps": 2, "weight_decay": 0.1, "final_lr": 1e-4}


class Rates(pl.Callback):
    """The learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


def run(
    folder: Path, steps: int, optimizer: dict[str, Any], resume: bool = False, stop: int | None = None
) -> tuple[list[float], Any]:
    """Learning rates of a run, which begins at `half.ckpt` or stops there; and its optimizer."""
    rates, path = Rates(), folder / "half.ckpt"
    trainer = small_trainer(folder, max_steps=steps, callbacks=[rates])
    if stop is not None:  # a run of so many steps that is interrupted

        class Stop(pl.Callback):
            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                trainer.should_stop = trainer.global_step >= stop

        trainer.callbacks.append(Stop())  # type: ignore[attr-defined]
    torch.manual_seed(0)
    trainer.fit(small_module(optimizer=optimizer), small_data(size=32, batch=8), ckpt_path=path if resume else None)
    if stop is not None:
        trainer.save_checkpoint(path)
    return rates.seen, trainer.optimizers[0]


def cosine(step: int, lr: float, warmup: int, total: int, final: float) -> float:
    """By Loshchilov & Hutter 2017, equation 5, after a linear warm-up."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return final + (lr - final) / 2 * (1 + math.cos(math.pi * min(1, (step - warmup) / (total - warmup))))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps stopped after 4."""
    folder = tmp_path_factory.mktemp("half")
    run(folder, 8, FIRST, stop=4)
    return folder


class TestResume:
    def test_the_same_settings_say_nothing(self, half: Path, caplog: pytest.LogCaptureFixture) -> None:
        rates, _ = run(half, 8, FIRST, resume=True)
        assert rates == pytest.approx([cosine(step, 1e-3, 2, 8, 1e-4) for step in range(4, 8)])
        assert "other settings" not in caplog.text

    @pytest.mark.parametrize(
        ("changed", "steps", "said"),
        [
            ({"lr": 5e-4}, 8, r"lr was 0.001 and is 0.0005; final_lr / lr was 0.1 and is 0.2"),
            ({}, 12, r"optimizer steps of the run was 8 and is 12"),
            ({"weight_decay": 0.3}, 8, r"weight_decay was 0.1 and is 0.3"),
            ({"betas": [0.8, 0.95]}, 8, r"betas was \(0.9, 0.98\) and is \(0.8, 0.95\)"),
            ({"warmup_steps": 3}, 8, r"warmup_steps was 2 and is 3"),
            ({"schedule": "constant"}, 8, r"optimizer steps of the run was 8 and is inf"),
        ],
    )
    def test_other_settings(
        self, changed: dict[str, Any], steps: int, said: str, half: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """They are said, and followed only where that is asked for."""
        now: dict[str, Any] = {**FIRST, **changed}
        with caplog.at_level(logging.WARNING):
            stored, optimizer = run(half, steps, now, resume=True)
        assert stored == pytest.approx([cosine(step, 1e-3, 2, 8, 1e-4) for step in range(4, steps)])
        assert optimizer.param_groups[0]["weight_decay"] == 0.1 and tuple(optimizer.param_groups[0]["betas"]) == (0.9, 0.98)
        assert re.search(rf"other settings \({said}\): this run goes on with those of the", caplog.text)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            given, optimizer = run(half, steps, {**now, "on_resume": "given"}, resume=True)
        end = steps if now.get("schedule") != "constant" else 10**12
        assert given == pytest.approx([cosine(step, now["lr"], now["warmup_steps"], end, 1e-4) for step in range(4, steps)])
        group = optimizer.param_groups[0]
        assert group["weight_decay"] == now["weight_decay"] and list(group["betas"]) == list(now.get("betas", (0.9, 0.98)))
        assert f"goes on with the new ones: its learning rate is now {given[0]:g}" in caplog.text

    def test_a_schedule_that_ends_before_the_run(self, tmp_path: Path) -> None:
        settings = {**FIRST, "final_lr": 0.0}
        run(tmp_path, 4, settings, stop=4)
        with pytest.raises(InputError, match=r"falls to a learning rate of 0 at optimizer step 4, and .* to step 8"):
            run(tmp_path, 8, settings, resume=True)
        rates, _ = run(tmp_path, 8, {**settings, "on_resume": "given"}, resume=True)
        assert rates == pytest.approx([cosine(step, 1e-3, 2, 8, 0) for step in range(4, 8)])

    def test_unknown_choice(self) -> None:
        with pytest.raises(InputError, match="unknown on_resume 'new'"):
            OptimizerSettings(on_resume="new")


def test_warmup_longer_than_the_run_is_shortened(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=1.0)
    with caplog.at_level(logging.WARNING):
        schedule = build_scheduler(optimizer, OptimizerSettings(lr=1.0, warmup_steps=500), 20)
    assert "optimizer.warmup_steps 500 is not shorter than the run of 20 optimizer steps: 2 are taken" in caplog.text
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([cosine(step, 1.0, 2, 20, 0) for step in range(20)])


def test_a_cosine_without_an_end() -> None:
    with pytest.raises(InputError, match="a cosine schedule needs an end"):
        build_scheduler(torch.optim.AdamW([torch.zeros(1)]), OptimizerSettings(), math.inf)
