"""A run that is killed goes on with the very next sample: same samples, captions, crops and losses as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from distributed.killed import MOMENTS, Record, records, train
from distributed.small_runs import SAMPLES, STEPS, runs
from lightning.pytorch.callbacks import ModelCheckpoint
from small import small_module, small_trainer, write_folder
from waiting import exit_code

from lightning_clip import ClipDataModule, InputError, SaveOnSignal


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("pairs"), count=SAMPLES))


@pytest.fixture(scope="module")
def unbroken(table: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[int, Record]]]:
    """What an uninterrupted run of so many ranks sees."""
    known: dict[int, list[dict[int, Record]]] = {}

    def of(ranks: int) -> list[dict[int, Record]]:
        if ranks not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            assert train(runs(table, ranks, workers=0), folder) == 0
            known[ranks] = records(folder, ranks)
            assert [len(steps) for steps in known[ranks]] == [STEPS] * ranks
        return known[ranks]

    return of


class TestKilled:
    @pytest.mark.parametrize(
        ("ranks", "workers", "others", "kill"),
        [
            pytest.param(1, 0, 0, (5, "batch_start"), marks=pytest.mark.slow),
            (1, 0, 2, (6, "batch_start")),  # the last batch of an epoch was done, and its checkpoint written
            (1, 2, 0, (12, "saving")),  # while that checkpoint is written
            pytest.param(1, 3, 3, (17, "batch_end"), marks=pytest.mark.slow),
            pytest.param(2, 0, 0, (12, "before_step"), marks=pytest.mark.slow),
            pytest.param(2, 2, 3, (7, "batch_end"), marks=pytest.mark.slow),
        ],
    )
    def test_goes_on_as_if_nothing_had_been(
        self, ranks: int, workers: int, others: int, kill: tuple[int, str], table: str, unbroken: Any, tmp_path: Path
    ) -> None:
        assert train(runs(table, ranks, workers), tmp_path, kill=kill) == -signal.SIGKILL
        assert train(runs(table, ranks, others), tmp_path, resume=True) == 0
        assert records(tmp_path, ranks) == unbroken(ranks)

    @pytest.mark.slow
    def test_again_and_again(self, table: str, unbroken: Any, tmp_path: Path) -> None:
        for kill in ((4, "batch_end"), (9, "saving"), (9, "before_step"), (13, "batch_start")):
            assert train(runs(table, 1, 0), tmp_path, resume=True, kill=kill) == -signal.SIGKILL
        assert train(runs(table, 1, 0), tmp_path, resume=True) == 0
        assert records(tmp_path, 1) == unbroken(1)

    @pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
    def test_another_number_of_ranks_sees_the_same_samples(
        self, before: int, after: int, table: str, unbroken: Any, tmp_path: Path
    ) -> None:
        assert train(runs(table, before, 0), tmp_path, kill=(10, "batch_start")) == -signal.SIGKILL
        for rank in range(2):
            (tmp_path / f"rank{rank}.jsonl").unlink(missing_ok=True)
        assert train(runs(table, after, 0), tmp_path, resume=True) == 0
        found, whole = records(tmp_path, after), unbroken(1)[0]
        assert sorted(found[0]) == list(range(10, STEPS + 1))  # the checkpoint of step 9 was the last
        for step in found[0]:
            assert sorted(index for rank in found for index in rank[step]["index"]) == sorted(whole[step]["index"])

    @pytest.mark.slow  # quicker: tests/data/test_resume_settings.py
    @pytest.mark.parametrize(
        "options",
        [{"val_check_interval": 2}, {"limit_train_batches": 4}, {"accumulate_grad_batches": 2}, {"limit_train_batches": 0.5}],
        ids=str,
    )
    def test_with_other_trainers(self, options: dict[str, Any], table: str, tmp_path: Path) -> None:
        plan = runs(table, 1, 0, **options)
        assert train(plan, tmp_path / "whole") == 0
        assert train(plan, tmp_path / "killed", kill=(10, "batch_start")) == -signal.SIGKILL
        assert train(plan, tmp_path / "killed", resume=True) == 0
        assert records(tmp_path / "killed", 1) == records(tmp_path / "whole", 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("part", range(10))
def test_fifty_moments(part: int, ranks: int, workers: int, table: str, unbroken: Any, tmp_path: Path) -> None:
    """Steps 1 to 20 at each of four moments, of which 50 are spread over them all; five at a time."""
    possible = [(step, moment) for step in range(1, STEPS) for moment in MOMENTS if moment != "saving" or step % 3 == 0]
    for number in range(part, 50, 10):
        kill = possible[number * len(possible) // 50]
        folder = tmp_path / str(number)
        assert train(runs(table, ranks, workers), folder, kill=kill) == -signal.SIGKILL, kill
        assert train(runs(table, ranks, workers), folder, resume=True) == 0, kill
        assert records(folder, ranks) == unbroken(ranks), kill


class TestSignals:
    @pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_sigterm_saves_the_very_step(self, ranks: int, table: str, unbroken: Any, tmp_path: Path) -> None:
        """Only rank 0 is told; all ranks end after the same batch."""
        code = train(runs(table, ranks, 2), tmp_path, kill=(7, "before_step"), kill_signal=signal.SIGTERM)
        assert code == (128 + signal.SIGTERM if ranks == 1 else 1)  # the process that forked the ranks reports a failure
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8
        assert max(records(tmp_path, ranks)[0]) == 8
        assert train(runs(table, ranks, 0), tmp_path, resume=True) == 0
        assert records(tmp_path, ranks) == unbroken(ranks)

    def test_ctrl_c_does_the_same(self, table: str, unbroken: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """With workers, which the terminal interrupts too."""
        code = train(runs(table, 1, 2), tmp_path, kill=(7, "before_step"), kill_signal=signal.SIGINT)
        assert code == 130
        assert "interrupted: saving after this step" in capfd.readouterr().err
        assert train(runs(table, 1, 0), tmp_path, resume=True) == 0
        assert records(tmp_path, 1) == unbroken(1)

    def test_a_second_ctrl_c_stops_at_once(self) -> None:
        def press_twice() -> None:
            callback = SaveOnSignal()
            callback.signals.note(signal.SIGINT, None)
            callback.signals.note(signal.SIGINT, None)
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=press_twice)
        process.start()
        assert exit_code(process) == 130

    def test_a_notebook_keeps_its_ctrl_c(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert signal.SIGINT in SaveOnSignal().signals.numbers()
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
        assert signal.SIGINT not in SaveOnSignal().signals.numbers()

    @pytest.mark.parametrize(("save_last", "enable_checkpointing"), [(False, True), (True, True), (None, False)])
    def test_no_checkpoint_is_older_than_that(self, save_last: bool | None, enable_checkpointing: bool, tmp_path: Path) -> None:
        class Steps(pl.Callback):
            found: list[int] = []

            def on_train_batch_start(self, *arguments: Any) -> None:
                path = tmp_path / "last.ckpt"
                self.found = [*self.found, torch.load(path, weights_only=True)["global_step"] if path.exists() else 0]

        steps = Steps()
        saver = [ModelCheckpoint(tmp_path, save_last=save_last)] if enable_checkpointing else []
        callbacks = [steps, SaveOnSignal(every_minutes=1e-9), *saver]
        trainer = small_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=enable_checkpointing)
        trainer.fit(small_module(), ClipDataModule({"name": "synthetic", "size": 32, "image_size": 32}, local_batch_size=8))
        assert steps.found == ([0, 1, 2, 3] if enable_checkpointing else [0, 0, 0, 0])
        assert not list(tmp_path.glob("last-v*.ckpt"))

    @pytest.mark.slow
    def test_between_steps_only(self, table: str, tmp_path: Path) -> None:
        """Gradients that are being accumulated are in no checkpoint."""
        plan = runs(table, 1, 0, accumulate_grad_batches=2)
        assert train(plan, tmp_path / "whole") == 0
        code = train(plan, tmp_path / "told", kill=(7, "batch_start"), kill_signal=signal.SIGTERM)
        assert code == 128 + signal.SIGTERM
        assert train(plan, tmp_path / "told", resume=True) == 0
        assert records(tmp_path / "told", 1) == records(tmp_path / "whole", 1)

    def test_requeues_a_slurm_job(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        program = tmp_path / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
        callback = SaveOnSignal(["SIGUSR1"], str(tmp_path), requeue=True)
        monkeypatch.setattr(callback.signals, "agreed", lambda trainer: signal.SIGUSR1)
        data = ClipDataModule({"name": "synthetic", "size": 32, "image_size": 32}, local_batch_size=8)
        monkeypatch.delenv("SLURM_NTASKS", raising=False)
        with pytest.raises(SystemExit) as stop:
            small_trainer(tmp_path, callbacks=[callback]).fit(small_module(), data)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # given back after an exception, too
        assert stop.value.code == 128 + signal.SIGUSR1 and (tmp_path / "called").read_text() == "requeue 12_3\n"
        assert "stopped by SIGUSR1; continue with --ckpt_path" in caplog.text and (tmp_path / "last.ckpt").exists()

    def test_handlers_are_given_back(self, tmp_path: Path) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
        data = ClipDataModule({"name": "synthetic", "size": 32, "image_size": 32}, local_batch_size=8)
        small_trainer(tmp_path, callbacks=[SaveOnSignal()]).fit(small_module(), data)
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="signals has 'SIGTREM': did you mean 'SIGTERM'"):
            SaveOnSignal(["SIGTREM"])
        with pytest.raises(InputError, match="every_minutes 0 must be above 0, or None"):
            SaveOnSignal(every_minutes=0)
        with pytest.raises(InputError, match="every_n_batches 0 must be at least 1"):
            SaveOnSignal(every_n_batches=0)


def test_another_order_is_said(table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = small_module()
    trainer = small_trainer(tmp_path, max_steps=3)
    trainer.fit(module, ClipDataModule(table, local_batch_size=8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = small_trainer(tmp_path, max_steps=5)
    module = small_module(optimizer={"warmup_steps": 1, "on_resume": "given"})
    data = ClipDataModule(table, local_batch_size=4, seed=1)
    again.fit(module, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert "another order of samples (seed was 0 and is 1; global_batch_size was 8 and is 4)" in caplog.text
