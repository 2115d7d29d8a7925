"""Training runs that are killed: a plan arrives, what each rank saw in each step leaves, on disk.

A run is a forked process with a session of its own; SIGKILL goes to all of it, ranks and loader workers included.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from waiting import PATIENCE, Lifeline

from lightning_clip import ClipDataModule, SaveOnSignal
from lightning_clip.core.types import PairBatch

__all__ = ["MOMENTS", "Plan", "Record", "final_weights", "records", "train", "validations"]

MOMENTS = ("batch_start", "before_step", "saving", "batch_end")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One way to run the same training.

    Args:
        make: data and module of a run; called in the forked process.
        ranks: DDP over gloo where more than one.
        steps: at which the run ends.
        save_every: optimizer steps between checkpoints; 0 writes one after every batch, as a trigger by time may.
        options: of the Trainer.
        callbacks: makes further ones for a run.
        before: called with trainer, module and data before the fit, as a search for the batch size is.
    """

    make: Callable[[], tuple[Any, ClipDataModule]]
    ranks: int = 1
    steps: int = 20
    save_every: int = 3
    options: Mapping[str, Any] | None = None
    before: Callable[[pl.Trainer, Any, ClipDataModule], None] | None = None
    callbacks: Callable[[], list[pl.Callback]] = list


class _Recorder(pl.Callback):
    """Writes one line a batch and rank, and kills the run where it is told to."""

    def __init__(self, folder: Path, kill: tuple[int, str] | None, kill_signal: int) -> None:
        self.folder, self.kill, self.kill_signal = folder, kill, kill_signal
        self._batch: PairBatch | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: PairBatch, batch_idx: int) -> None:
        self._batch = batch
        self._maybe(trainer, "batch_start")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._maybe(trainer, "before_step")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._maybe(trainer, "saving")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: PairBatch, batch_idx: int) -> None:
        pixels = hashlib.sha256(batch.image.numpy().tobytes()).hexdigest()[:16]
        line = {
            "batch": trainer.fit_loop.epoch_loop.batch_progress.total.processed,
            "rank": trainer.global_rank,
            "index": batch.index.tolist(),
            "tokens": hashlib.sha256(batch.tokens.numpy().tobytes()).hexdigest()[:16],
            "pixels": pixels,
            "loss": outputs["loss"].item().hex(),
        }
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self._maybe(trainer, "batch_end", done=1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._maybe(trainer, "epoch_end")

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        moment = "sanity" if trainer.sanity_checking else "validation"
        self._maybe(trainer, f"{moment} {batch_idx}")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            line = {"step": trainer.global_step, "loss": trainer.callback_metrics["val/loss"].item().hex()}
            with (self.folder / f"validated{trainer.global_rank}.jsonl").open("a") as stream:
                stream.write(json.dumps(line) + "\n")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        digest = hashlib.sha256()
        for name, value in pl_module.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        (self.folder / f"weights{trainer.global_rank}.txt").write_text(digest.hexdigest())
        seen = [
            f"{callback.best_score.item():.9g} {callback.wait_count}"
            if isinstance(callback, EarlyStopping)
            else f"{callback.best_model_score} {Path(callback.best_model_path).name}"
            for callback in trainer.callbacks
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None
        ]
        (self.folder / f"monitored{trainer.global_rank}.txt").write_text("\n".join(seen))

    def _maybe(self, trainer: Any, moment: str, done: int = 0) -> None:
        if self.kill != (trainer.global_step - done, moment) or trainer.global_rank:
            return
        if self.kill_signal == signal.SIGKILL:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), self.kill_signal)


def train(
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    kill: tuple[int, str] | None = None,
    kill_signal: int = signal.SIGKILL,
    kill_after: float | None = None,
    timeout: float = PATIENCE,
) -> int:
    """Runs a plan to its end, or until it kills itself.

    Args:
        plan: what to run.
        folder: of checkpoint and records.
        resume: begin from `last.ckpt`, if there is one.
        kill: optimizer steps done, and the moment of the next one (one of `MOMENTS`), at which the run ends
            itself; "epoch_end" after the checkpoints of that step, "validation 2" in batch 2 of the validation after it.
        kill_signal: SIGKILL for the whole session, any other for rank 0 alone.
        kill_after: seconds after which the whole session gets SIGKILL, wherever it is.
        timeout: seconds after which the test fails.

    Returns:
        The exit code; -9 after SIGKILL.
    """
    lifeline = Lifeline()
    process = multiprocessing.get_context("fork").Process(target=_run, args=(plan, folder, resume, kill, kill_signal))
    process.start()
    lifeline.let_go()
    process.join(timeout if kill_after is None else kill_after)
    if kill_after is not None:
        with suppress(ProcessLookupError):  # it was not begun yet, or has ended
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.kill()
        process.join()
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        raise TimeoutError(f"the run did not end within {timeout:g} s (resume={resume}, kill={kill})")
    try:
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # ranks that outlived the first one
    except ProcessLookupError:
        pass
    lifeline.wait()  # so that none of them writes into what the next run reads
    assert process.exitcode is not None
    return process.exitcode


def records(folder: Path, ranks: int) -> list[dict[int, Record]]:
    """Per rank: batch -> what was seen; a batch that was seen twice must have been the same."""
    found: list[dict[int, Record]] = []
    for rank in range(ranks):
        batches: dict[int, Record] = {}
        for line in _lines(folder / f"rank{rank}.jsonl"):
            seen = json.loads(line)
            assert batches.setdefault(seen["batch"], seen) == seen, "a batch was repeated differently"
        found.append(batches)
    return found


def validations(folder: Path, rank: int = 0) -> list[tuple[int, str]]:
    """Steps at which a run was validated, and the losses that were measured."""
    return [(seen["step"], seen["loss"]) for seen in map(json.loads, _lines(folder / f"validated{rank}.jsonl"))]


def final_weights(folder: Path, rank: int = 0) -> str:
    """A digest of the weights with which a run ended."""
    return (folder / f"weights{rank}.txt").read_text()


def _lines(path: Path) -> Iterable[str]:
    return [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def _run(plan: Plan, folder: Path, resume: bool, kill: tuple[int, str] | None, kill_signal: int) -> None:
    os.setsid()
    # Other tests of this process may have asked for devices, after which torch takes any fork for a mistake; none is used here.
    torch.cuda._is_in_bad_fork = lambda: False
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    recorder = _Recorder(folder, kill, kill_signal)
    when: dict[str, Any] = (
        {"every_n_train_steps": plan.save_every} if plan.save_every else {"train_time_interval": timedelta(0)}
    )
    saving = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False, **when)
    settings: dict[str, Any] = {
        "max_steps": plan.steps,
        "accelerator": "cpu",
        "devices": plan.ranks,
        "strategy": "ddp_fork" if plan.ranks > 1 else "auto",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        **(plan.options or {}),
    }
    torch.manual_seed(0)  # a fork has the generator of this process, from which earlier tests have drawn
    module, data = plan.make()
    trainer = pl.Trainer(callbacks=[recorder, *plan.callbacks(), SaveOnSignal(every_n_batches=1), saving], **settings)
    if plan.before is not None:
        plan.before(trainer, module, data)
    trainer.fit(module, data, ckpt_path=last if resume and last.exists() else None, weights_only=True)
