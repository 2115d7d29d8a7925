"""Runs that are killed at moments drawn from a seed, and what an uninterrupted run of the same settings ends with.

As a program it takes any number of points: `PYTHONPATH=tests python -m kills.points --points 1000 --seed 0`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed.killed import Plan, Record, final_weights, records, train
from distributed.small_runs import IMAGE, SAMPLES, STEPS
from lightning.pytorch.callbacks import EMAWeightAveraging
from small import TEXT, small_module, write_folder

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data.tokenizers import train_tokenizer

__all__ = ["SETTINGS", "Point", "Survivors", "points"]


@dataclass(frozen=True)
class Setting:
    """A way to train.

    Args:
        ranks, workers: processes, and those that load for each.
        save_every: optimizer steps between checkpoints; 0 after every batch.
        mixed: two sources instead of one.
        averaged: with a moving average of the weights, which the run ends with.
        module: settings of the module.
        options: of the Trainer.
    """

    ranks: int = 1
    workers: int = 0
    save_every: int = 3
    mixed: bool = False
    averaged: bool = False
    module: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


EPOCHS = {"max_epochs": 3, "max_steps": -1}
SETTINGS = {
    "plain": Setting(save_every=1),
    "workers and epochs": Setting(workers=2, options=EPOCHS),
    "accumulation": Setting(workers=2, save_every=0, options={"accumulate_grad_batches": 2}),
    "micro-batches": Setting(save_every=0, module={"micro_batch_size": 4}),
    "mix": Setting(workers=2, save_every=1, mixed=True),
    "validation in a window": Setting(options={**EPOCHS, "accumulate_grad_batches": 2, "val_check_interval": 3}),
    "average of weights": Setting(save_every=2, averaged=True, options=EPOCHS),
    "two ranks": Setting(ranks=2, save_every=1),
    "two ranks, workers, accumulation": Setting(ranks=2, workers=2, options={**EPOCHS, "accumulate_grad_batches": 2}),
}


@dataclass(frozen=True)
class Point:
    """Where a run is killed.

    Args:
        number: of the point.
        setting: one of `SETTINGS`.
        moments: of each kill, as a share of the time that an uninterrupted run takes.
    """

    number: int
    setting: str
    moments: tuple[float, ...]


def points(count: int, seed: int = 0) -> list[Point]:
    """So many points, every second with two kills; each setting has its turn."""
    rng, names = random.Random(seed), list(SETTINGS)
    return [
        Point(number, names[number % len(names)], tuple(rng.random() for _ in range(1 + number // len(names) % 2)))
        for number in range(count)
    ]


class Survivors:
    """Kills runs and compares their ends with those of runs that were left alone, which are made once a setting.

    Args:
        folder: for all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = str(write_folder(folder / "pairs", count=SAMPLES))
        self.second = str(write_folder(folder / "more", count=SAMPLES // 2))
        self._whole: dict[str, tuple[list[dict[int, Record]], str, float]] = {}

    def difference(self, point: Point) -> str | None:
        """What is other than in the uninterrupted run, or None."""
        plan, folder = self._plan(SETTINGS[point.setting]), self.folder / f"point{point.number}"
        expected, weights, seconds = self.whole(point.setting)
        for moment in point.moments:
            train(plan, folder, resume=True, kill_after=moment * seconds)
        if (code := train(plan, folder, resume=True)) != 0:
            return f"the last run ended with {code}"
        try:
            found = records(folder, plan.ranks)
        except AssertionError as error:
            return str(error)
        ended = final_weights(folder)
        shutil.rmtree(folder)
        for rank, (own, others) in enumerate(zip(found, expected, strict=True)):
            if own != others:
                batch = next(number for number in sorted({*own, *others}) if own.get(number) != others.get(number))
                return f"rank {rank}, batch {batch}: {own.get(batch)} and not {others.get(batch)}"
        return None if ended == weights else "the weights differ, though every loss is the same"

    def whole(self, name: str) -> tuple[list[dict[int, Record]], str, float]:
        """Records, weights and seconds of a run that nothing interrupts."""
        if name not in self._whole:
            plan, folder, began = self._plan(SETTINGS[name]), self.folder / "whole" / name, time.monotonic()
            assert train(plan, folder) == 0
            self._whole[name] = records(folder, plan.ranks), final_weights(folder), time.monotonic() - began
        return self._whole[name]

    def _plan(self, setting: Setting) -> Plan:
        tokenizer = train_tokenizer(["picture 1", "image number 2"], 300).to_mapping()
        source = {"name": "mix", "sources": [self.table, self.second], "weights": [1, 2]} if setting.mixed else self.table

        def make() -> tuple[ClipModule, ClipDataModule]:
            module = small_module(
                transform={"crop_scale": [0.1, 1.0], "flip": 0.5},
                tokenizer=tokenizer,
                image_encoder={**IMAGE, "drop_rate": 0.1},
                text_encoder=TEXT,
                **setting.module,
            )
            batch = 8 // setting.ranks // setting.options.get("accumulate_grad_batches", 1)
            validation = self.table if "val_check_interval" in setting.options else None
            return module, ClipDataModule(source, validation, local_batch_size=batch, num_workers=setting.workers)

        def callbacks() -> list[Any]:
            return [EMAWeightAveraging(decay=0.9)] if setting.averaged else []

        return Plan(make, setting.ranks, STEPS, setting.save_every, options=setting.options, callbacks=callbacks)


def _outcomes(count: int, seed: int, folder: Path) -> Iterator[tuple[Point, str | None]]:
    survivors = Survivors(folder)
    for point in points(count, seed):
        yield point, survivors.difference(point)


def main() -> None:
    """Prints each run that ends otherwise, and how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for point, difference in _outcomes(arguments.points, arguments.seed, Path(folder)):
            wrong += difference is not None
            if difference is not None:
                print(f"{point}: {difference}", flush=True)
            elif (point.number + 1) % 20 == 0:
                print(f"{point.number + 1} points, {wrong} runs that end otherwise", flush=True)
    print(f"{arguments.points} points of seed {arguments.seed}: {wrong} runs that end otherwise")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
