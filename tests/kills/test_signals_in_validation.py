"""A signal in the middle of a validation: the run saves and stops there; resumed, it ends as one that nothing interrupts."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from distributed.killed import Plan, final_weights, records, train, validations
from distributed.small_runs import SAMPLES, runs
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from small import small_module, small_trainer, write_folder
from waiting import exit_code

from lightning_clip import ClipDataModule, SaveOnSignal
from lightning_clip.callbacks import EvaluationSuite, ZeroShotClassification, zero_shot
from lightning_clip.evaluation import extraction

IN_EPOCHS = {"max_epochs": 3, "max_steps": -1}


class Case(NamedTuple):
    """Steps and moment of the signal, and the steps of the checkpoint that it leaves."""

    ranks: int
    options: dict[str, Any]
    moment: tuple[int, str]
    number: int
    saved: int
    callback: Callable[[], pl.Callback] | None = None


class Trades(pl.Callback):
    """Of the user's own: nobody knows what it does to the weights."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None: ...

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None: ...


def averaged() -> pl.Callback:
    return EMAWeightAveraging(decay=0.9)


SCENES = {"name": "synthetic", "held_out": True, "size": 24, "image_size": 32}


class _Told(pl.Callback):
    """Is told between two batches of its own, in the room whose loop it is."""

    room: Any

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        recorder = next(one for one in trainer.callbacks if hasattr(one, "_maybe"))
        batches, known = itertools.count(), self.room.pause

        def told() -> None:
            recorder._maybe(trainer, f"measuring {next(batches)}")
            known()

        self.room.pause = told
        try:
            super().on_validation_epoch_end(trainer, pl_module)
        finally:
            self.room.pause = known


class Measures(_Told, ZeroShotClassification):
    room = zero_shot

    def __init__(self) -> None:
        super().__init__({"scenes": SCENES}, local_batch_size=8)


class RunsSuite(_Told, EvaluationSuite):
    room = extraction

    def __init__(self) -> None:
        super().__init__({"sets": {"scenes": {**SCENES, "protocols": ["zero_shot"]}}, "batch_size": 8}, report=False)


# Epochs have 6 batches. The 49 pairs of a validation come in 7 batches, or in 7 of the first of two ranks and 6 of the second.
TERM, PRESSED = signal.SIGTERM, signal.SIGINT
AT_ENDS = {"val_check_interval": 1.0, **IN_EPOCHS}
WINDOWS = {"val_check_interval": 3, "accumulate_grad_batches": 2, **IN_EPOCHS}
CASES = {
    "inside an epoch": Case(1, {"val_check_interval": 2}, (4, "validation 2"), TERM, 4),
    "at the end of an epoch": Case(1, AT_ENDS, (6, "validation 5"), PRESSED, 6),
    "at the end of the last epoch": Case(1, AT_ENDS, (18, "validation 0"), TERM, 18),
    "due after the batch at work": Case(1, AT_ENDS, (11, "before_step"), TERM, 12),
    "in a window": Case(1, WINDOWS, (4, "validation 1"), signal.SIGUSR1, 4),
    "of averaged weights": Case(1, {"val_check_interval": 3, **IN_EPOCHS}, (9, "validation 3"), TERM, 9, averaged),
    "of weights that a callback may trade": Case(1, {"val_check_interval": 2}, (4, "validation 2"), TERM, 5, Trades),
    "while classes are measured": Case(1, {"val_check_interval": 2}, (6, "measuring 1"), TERM, 6, Measures),
    "while a suite runs": Case(1, AT_ENDS, (12, "measuring 0"), PRESSED, 12, RunsSuite),
    "on two ranks": Case(2, {"val_check_interval": 2}, (8, "validation 3"), TERM, 8),
    "on two ranks, at the end of an epoch": Case(2, AT_ENDS, (12, "validation 5"), PRESSED, 12),
    "in a batch that the other rank has not": Case(2, AT_ENDS, (12, "validation 6"), TERM, 13),
}
QUICK = ("at the end of an epoch",)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("pairs"), count=SAMPLES - 1))


def plan_of(table: str, case: Case, folder: Path) -> Plan:
    """A run that keeps the best of its checkpoints by a measure of the validation, and may stop early by it."""

    def callbacks() -> list[Any]:
        best = ModelCheckpoint(folder, monitor="val/loss", filename="{step}", enable_version_counter=False)
        return [EarlyStopping("val/loss", patience=50), best, *([case.callback()] if case.callback else [])]

    return replace(runs(table, case.ranks, 0, **case.options), callbacks=callbacks)


def ended(folder: Path, ranks: int) -> tuple[Any, ...]:
    """All that a run leaves that must not depend on interruptions."""
    monitored = (folder / "monitored0.txt").read_text()
    assert "step=" in monitored
    return records(folder, ranks), final_weights(folder), validations(folder), monitored


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_the_run_stops_there_and_goes_on(name: str, table: str, tmp_path: Path) -> None:
    case = CASES[name]
    assert train(plan_of(table, case, tmp_path / "whole"), tmp_path / "whole") == 0
    plan = plan_of(table, case, tmp_path / "told")
    code = train(plan, tmp_path / "told", kill=case.moment, kill_signal=case.number)
    assert code == (128 + case.number if case.ranks == 1 else 1)  # the process that forked the ranks reports a failure
    assert torch.load(tmp_path / "told/last.ckpt", weights_only=True)["global_step"] == case.saved
    whole = validations(tmp_path / "whole")
    assert validations(tmp_path / "told") == [seen for seen in whole if seen[0] < case.saved] != whole
    assert train(plan, tmp_path / "told", resume=True) == 0
    assert ended(tmp_path / "told", case.ranks) == ended(tmp_path / "whole", case.ranks)


class Tells(pl.Callback):
    """Sends a signal in the second of four batches of an evaluation, and writes down each that ends."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with self.notes.open("a") as stream:
            stream.write(f"{batch_idx}")
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end


@pytest.mark.parametrize("what", ["fit", "validate", "test", "predict"])
def test_what_has_nothing_to_save_stops_too(what: str, tmp_path: Path) -> None:
    """A fit before its first step, and evaluations."""
    pairs = {"name": "synthetic", "size": 32, "image_size": 32}

    def run() -> None:
        trainer = small_trainer(tmp_path, callbacks=[SaveOnSignal(), Tells(tmp_path / "notes")], num_sanity_val_steps=4)
        try:
            getattr(trainer, what)(small_module(), ClipDataModule(pairs, pairs, test=pairs, local_batch_size=8))
        except SystemExit as stop:
            given_back = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            os._exit(stop.code if given_back else 99)  # type: ignore[arg-type]
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    assert exit_code(process) == 128 + signal.SIGTERM
    assert (tmp_path / "notes").read_text() == "01" and not list(tmp_path.rglob("*.ckpt"))
