"""A run that is stopped twice sees the samples, and ends with the weights, of one that never was, whatever its Trainer."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from distributed.killed import Plan, final_weights, records, train
from distributed.small_runs import SAMPLES, runs
from lightning.pytorch.tuner.tuning import Tuner
from small import write_folder

EPOCHS = {"max_epochs": 3, "max_steps": -1}  # of 6 batches each
MATRIX: dict[str, dict[str, Any]] = {
    "epochs": {},
    "epochs and steps": {"max_steps": 15},
    "validates in epochs": {"val_check_interval": 2},
    "validates at a share of epochs": {"val_check_interval": 0.5, "num_sanity_val_steps": 1},
    "validates across epochs": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "validates every second epoch": {"val_check_interval": 1.0, "check_val_every_n_epoch": 2},
    "accumulates": {"accumulate_grad_batches": 2},
    "accumulates with a rest": {"accumulate_grad_batches": 4, "limit_train_batches": 10},  # windows of 4, 4 and 2
    "accumulates and validates": {"accumulate_grad_batches": 2, "val_check_interval": 3},
    "part of the epoch": {"limit_train_batches": 0.5, "max_epochs": 5},
    "overfits": {"overfit_batches": 3, "max_epochs": 5},
    "overfits and validates": {"overfit_batches": 0.5, "max_epochs": 5, "val_check_interval": 1.0},
    "new loaders each epoch": {"reload_dataloaders_every_n_epochs": 1},
}
QUICK = ("accumulates",)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("pairs"), count=SAMPLES))


def same_after_two_stops(whole: Plan, stopped: Plan, folder: Path, kills: tuple[tuple[int, str], tuple[int, str]]) -> None:
    assert train(whole, folder / "whole") == 0
    for kill in kills:
        assert train(stopped, folder / "stopped", resume=True, kill=kill) == -signal.SIGKILL
    assert train(stopped, folder / "stopped", resume=True) == 0
    expected, found = records(folder / "whole", whole.ranks), records(folder / "stopped", whole.ranks)
    for own, others in zip(expected, found, strict=True):
        assert [others[batch]["index"] for batch in sorted(others)] == [own[batch]["index"] for batch in sorted(own)]
    assert found == expected
    assert final_weights(folder / "stopped") == final_weights(folder / "whole")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in MATRIX])
def test_stopped_twice(name: str, table: str, tmp_path: Path) -> None:
    """With workers, against a run without: what was drawn ahead is not what was trained on."""
    options = {**EPOCHS, **MATRIX[name]}
    whole, stopped = (runs(table, 1, workers, save_every=2, **options) for workers in (0, 2))
    same_after_two_stops(whole, stopped, tmp_path, ((3, "before_step"), (7, "batch_start")))


_ENDS = (
    "validates at a share of epochs",
    "validates every second epoch",
    "accumulates and validates",
    "new loaders each epoch",
)


@pytest.mark.parametrize("name", ["epochs", *(pytest.param(name, marks=pytest.mark.slow) for name in _ENDS)])
def test_stopped_at_the_ends_of_two_epochs(name: str, table: str, tmp_path: Path) -> None:
    """Just after the checkpoint of an epoch's last batch: the next epoch counts as one, and no epoch is trained too many."""
    plan = runs(table, 1, 0, save_every=2, **{**EPOCHS, **MATRIX[name]})
    same_after_two_stops(plan, plan, tmp_path, ((6, "epoch_end"), (12, "epoch_end")))


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [0, 2])
@pytest.mark.parametrize("batches", [2, 4])
def test_checkpoints_inside_a_window(save_every: int, batches: int, table: str, tmp_path: Path) -> None:
    """After a resume ModelCheckpoint writes again in the middle of a window, and one that goes by time does so at any time."""
    options = {**EPOCHS, "accumulate_grad_batches": batches, "limit_train_batches": 10}
    whole, stopped = (runs(table, 1, workers, save_every=save_every, **options) for workers in (0, 2))
    same_after_two_stops(whole, stopped, tmp_path, ((3, "before_step"), (3 if save_every == 0 else 2, "before_step")))


@pytest.mark.slow
@pytest.mark.parametrize("kills", [((2, "batch_end"), (3, "before_step")), ((5, "batch_end"), (11, "batch_start"))], ids=str)
def test_epochs_on_two_ranks(kills: Any, table: str, tmp_path: Path) -> None:
    whole, stopped = (runs(table, 2, workers, save_every=2, **EPOCHS) for workers in (0, 2))
    same_after_two_stops(whole, stopped, tmp_path, kills)


def _finds_batch_size(trainer: pl.Trainer, module: Any, data: Any) -> None:
    Tuner(trainer).scale_batch_size(
        module, datamodule=data, batch_arg_name="local_batch_size", init_val=4, max_trials=2, steps_per_trial=1
    )
    assert data.local_batch_size == 8


def _finds_rate(trainer: pl.Trainer, module: Any, data: Any) -> None:
    Tuner(trainer).lr_find(module, datamodule=data, num_training=4, update_attr=False)


@pytest.mark.slow
@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("search", [_finds_batch_size, _finds_rate], ids=lambda search: search.__name__)
def test_tuner(search: Any, validates: bool, table: str, tmp_path: Path) -> None:
    """A search trains and puts everything back: what follows begins at the first sample, or at the checkpoint's."""
    options = {**EPOCHS, **({"val_check_interval": 1.0} if validates else {})}
    plain, searches = runs(table, 1, 0, save_every=2, **options), runs(table, 1, 2, save_every=2, before=search, **options)
    same_after_two_stops(plain, searches, tmp_path, ((3, "before_step"), (7, "batch_start")))
