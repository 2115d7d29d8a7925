"""ComputeMeter: FLOPs against the library's counter, speed and time by a clock of the test's own, ranks, restarts, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import library_counter
from small import IMAGE, TEXT, small_data, small_module, small_trainer

from lightning_clip import ClipModule, ComputeMeter, InputError
from lightning_clip.callbacks import compute_meter
from lightning_clip.core.types import ClipOutput, PairBatch


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def meter(now: Callable[[], float], **arguments: Any) -> ComputeMeter:
    return type("Timed", (ComputeMeter,), {"_now": staticmethod(now)})(**arguments)  # type: ignore[no-any-return]


class Timed(ClipModule):
    """Each training step takes a second and each validation step a hundred."""

    clock: Clock

    def training_step(self, batch: PairBatch, batch_idx: int) -> torch.Tensor:
        self.clock.seconds += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        self.clock.seconds += 100
        return super().validation_step(batch, batch_idx)


def timed_module(clock: Clock) -> Timed:
    module = Timed(IMAGE, TEXT, embed_dim=16, training={"optimizer": {"warmup_steps": 0, "on_resume": "given"}})
    module.clock = clock
    return module


def untrained(**arguments: Any) -> ClipModule:
    """A small module that may be fitted for a single step."""
    return small_module(**{"optimizer": {"warmup_steps": 0}, **arguments})


def metrics(trainer: Any) -> dict[str, float]:
    found = trainer.callback_metrics.items()
    return {key.removeprefix("compute/"): float(value) for key, value in found if key.startswith("compute/")}


def test_flops_are_those_of_the_librarys_counter(tmp_path: Path) -> None:
    module, data = untrained(), small_data()
    module.configure_model()
    batch = next(iter(small_data().attach(module).train_dataloader()))
    module.train()
    with library_counter() as library:
        output = module.encode(batch)
        forward = library.get_total_flops()
        sum(features.sum() for features in output.features.values()).backward()  # type: ignore[union-attr]
    towers = library.get_total_flops()
    trainer = small_trainer(tmp_path, callbacks=[ComputeMeter()], max_steps=1, log_every_n_steps=1)
    trainer.fit(module, data)
    product = 2 * 16 * 16 * 16  # of the loss: one product forward, two backward
    found = metrics(trainer)
    assert found["forward_flops_per_step"] == forward + product
    assert found["backward_flops_per_step"] == towers - forward + 2 * product
    assert found["recomputed_flops_per_step"] == 0
    assert not {"samples_per_second", "mfu"} & set(found)  # the only step was counted, hence not timed


def test_speed_leaves_validation_out_and_accelerator_time_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    callback = meter(clock, peak_flops=1e9)
    trainer = small_trainer(
        tmp_path, callbacks=[callback], max_steps=8, log_every_n_steps=4, val_check_interval=2, limit_val_batches=2
    )
    trainer.fit(timed_module(clock), small_data())
    found = metrics(trainer)
    assert found["samples_per_second"] == 16
    useful = found["forward_flops_per_step"] + found["backward_flops_per_step"]
    assert found["mfu"] == pytest.approx(useful / 1e9)
    (name,) = callback.accelerator_seconds
    assert callback.accelerator_seconds[name] == 8 * 1 + 4 * 2 * 100
    printed = capsys.readouterr().out
    assert "16.0 samples/s" in printed and "13.5 minutes" in printed and name in printed and "128" in printed


def test_batches_of_a_step_are_added(tmp_path: Path) -> None:
    found = []
    for passes in (1, 2):
        trainer = small_trainer(
            tmp_path, callbacks=[ComputeMeter()], max_steps=1, accumulate_grad_batches=passes, log_every_n_steps=1
        )
        trainer.fit(untrained(), small_data())
        found.append(metrics(trainer)["forward_flops_per_step"])
    assert found[1] == pytest.approx(2 * found[0], rel=0.3)


def test_checkpointed_blocks_are_not_useful_flops(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        module = untrained(image_encoder={**IMAGE, "depth": 3})
        module.configure_model()
        module.model.image_encoder.model.set_grad_checkpointing(again)
        trainer = small_trainer(tmp_path, callbacks=[ComputeMeter()], max_steps=1, log_every_n_steps=1)
        trainer.fit(module, small_data())
        found.append(metrics(trainer))
    for key in ("forward_flops_per_step", "backward_flops_per_step"):
        assert found[0][key] == found[1][key]
    assert found[0]["recomputed_flops_per_step"] == 0 < found[1]["recomputed_flops_per_step"]


def test_micro_batches_are_not_useful_flops(tmp_path: Path) -> None:
    found = []
    for size in (None, 4):
        trainer = small_trainer(tmp_path, callbacks=[ComputeMeter()], max_steps=1, log_every_n_steps=1)
        trainer.fit(untrained(micro_batch_size=size, execution={"text_chunks": 1}), small_data())
        found.append(metrics(trainer))
    whole, sliced = found
    # Slices trim their captions, the last of four is not computed again, the others up to what backward needs.
    assert sliced["backward_flops_per_step"] == pytest.approx(whole["backward_flops_per_step"], rel=0.2)
    assert whole["recomputed_flops_per_step"] == 0
    assert 0.6 < sliced["recomputed_flops_per_step"] / sliced["forward_flops_per_step"] < 1


@pytest.mark.slow
def test_compiled_models_are_counted_as_they_were_written(tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        module = untrained()
        module.configure_model()
        if compiled:
            module.model.image_encoder.compile(backend="aot_eager")
        trainer = small_trainer(tmp_path, callbacks=[ComputeMeter()], max_steps=2, log_every_n_steps=1)
        trainer.fit(module, small_data())
        found.append(metrics(trainer)["backward_flops_per_step"])
    assert found[0] == found[1]


def test_two_ranks_spend_twice_the_time(tmp_path: Path) -> None:
    module = untrained()
    module.configure_model()
    hours = []
    for arguments in ({}, {"strategy": "ddp_fork", "devices": 2}):
        callback = meter(itertools.count().__next__)  # a second from each look at the clock to the next
        trainer = small_trainer(tmp_path, callbacks=[callback], log_every_n_steps=2, max_steps=2, **arguments)
        trainer.fit(module, small_data())
        hours.append(metrics(trainer)["accelerator_hours"])
    assert hours[1] == pytest.approx(2 * hours[0])


class TestRestart:
    def fit(self, folder: Path, steps: int, resume: Path | None, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
        clock = Clock()
        callback = meter(clock)
        monkeypatch.setattr(compute_meter, "device_name", lambda _: name)
        trainer = small_trainer(folder, callbacks=[callback], max_steps=steps, log_every_n_steps=1)
        trainer.fit(timed_module(clock), small_data(), ckpt_path=resume, weights_only=True)
        return trainer, callback

    def test_the_count_goes_on_and_a_second_device_is_added(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trainer, first = self.fit(tmp_path, 3, None, "NVIDIA A100-SXM4-80GB", monkeypatch)
        trainer.save_checkpoint(tmp_path / "first.ckpt")
        validated = first.accelerator_seconds["NVIDIA A100-SXM4-80GB"]
        assert validated >= 3
        trainer, second = self.fit(tmp_path, 5, tmp_path / "first.ckpt", "NVIDIA H100 80GB HBM3", monkeypatch)
        assert second.accelerator_seconds["NVIDIA A100-SXM4-80GB"] == validated
        assert second.accelerator_seconds["NVIDIA H100 80GB HBM3"] >= 2
        assert second.earlier.samples == 48 and second.run.samples == 32 and second.run.steps == 2
        found = metrics(trainer)
        assert found["accelerator_hours"] == pytest.approx(sum(second.accelerator_seconds.values()) / 3600, rel=0.9)
        assert {"accelerator_hours_of/NVIDIA_A100-SXM4-80GB", "accelerator_hours_of/NVIDIA_H100_80GB_HBM3"} <= set(found)
        assert not [name for name in found if any(other.startswith(f"{name}/") for other in found)]  # MLflow makes files
        printed = capsys.readouterr().out
        assert "with the runs before" in printed and "accelerators together" in printed

    def test_the_peak_of_a_known_device_is_looked_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer, callback = self.fit(tmp_path, 3, None, "Tesla V100-SXM2-16GB", monkeypatch)
        assert callback._peak == pytest.approx(15.7e12) and "mfu" in metrics(trainer)
        _, callback = self.fit(tmp_path, 1, None, "An accelerator nobody knows", monkeypatch)
        assert callback._peak is None


def test_a_failing_step_leaves_no_counter_behind(tmp_path: Path) -> None:
    class Failing(ClipModule):
        def training_step(self, batch: PairBatch, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("on purpose")

    from torch.utils._python_dispatch import _get_current_dispatch_mode

    module = Failing(IMAGE, {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}, embed_dim=16)
    callback = ComputeMeter()
    with pytest.raises(RuntimeError, match="on purpose"):
        small_trainer(tmp_path, callbacks=[callback], max_steps=30).fit(module, small_data())
    assert _get_current_dispatch_mode() is None
    small_trainer(tmp_path, callbacks=[callback], max_steps=2).fit(small_module(), small_data())
    assert callback.run.samples == 32


def test_mistakes() -> None:
    with pytest.raises(InputError, match="peak_flops -5 must be > 0: FLOP/s of one device, such as 312e12"):
        ComputeMeter(peak_flops=-5)
