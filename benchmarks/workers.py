"""Loader workers beside open_clip's: two of them, two against one, and the gap between epochs.

Both read the same shards (see `loading.py`) to batches of 64 images of 224 pixels. The first rows are whole passes, start of
the workers included, by the clock and by the time of all processes on the processor. The last are passes in which workers
are kept: how long the first batch of an epoch is waited for, beside the mean of all others.

    python benchmarks/workers.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loading import BATCH, small_module, theirs, write_shards
from report import Row, machine, write_section

from lightning_clip import ClipDataModule


def used() -> float:
    """Seconds of the processor's time, of this process and of its workers that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def whole(batches: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    """A pass: samples by the second of the clock and of the processor."""
    clock, processor = time.perf_counter(), used()
    count = sum(BATCH for _ in batches())
    return count / (time.perf_counter() - clock), count / (used() - processor)


def their_loader(pipeline: Any, keep: bool = False) -> Any:
    import webdataset

    return webdataset.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=2, persistent_workers=keep)


def gaps(passes: Callable[[int], Iterable[Any]], epochs: int = 5) -> float:
    """Seconds to the first batch of an epoch, those after the first epoch, over the mean of all others."""
    first, others = [], []
    for epoch in range(epochs):
        last = time.perf_counter()
        for number, _ in enumerate(passes(epoch)):
            now = time.perf_counter()
            (others if number else first).append(now - last)
            last = now
    return statistics.median(first[1:]) / statistics.mean(others)


def our_passes(data: ClipDataModule) -> Callable[[int], Iterable[Any]]:
    """One loader through all epochs, as a Trainer has it."""
    loader: Any = data.train_dataloader()
    done = [0]
    loader.sampler.endless, loader.sampler.batches_done = True, lambda: done[0]

    def passes(epoch: int) -> Iterable[Any]:
        for batch in loader:
            done[0] += 1
            yield batch

    return passes


def compared(folder: str, paths: list[str], size: tuple[int, int], margin: float, rounds: int) -> list[Row]:
    """Rows of one size of photographs."""
    pipeline, module = theirs(paths), small_module(224, margin)
    ours = {
        workers: ClipDataModule(f"{folder}/*.tar", local_batch_size=BATCH, num_workers=workers).attach(module)
        for workers in (1, 2)
    }
    contenders: dict[str, Callable[[], Iterable[Any]]] = {
        "theirs": partial(their_loader, pipeline),
        "one": ours[1].train_dataloader,
        "two": ours[2].train_dataloader,
    }
    rates: dict[str, list[tuple[float, float]]] = {key: [] for key in contenders}
    for number in range(rounds + 1):
        for key, build in contenders.items():
            found = whole(build)
            if number:  # the first round warms caches
                rates[key].append(found)
    medians = {key: [statistics.median(column) for column in zip(*values, strict=True)] for key, values in rates.items()}
    what, rows = f"{size[0]} x {size[1]}, scaled_decoding {margin:g}", []
    for place, unit in enumerate(("samples/s by the clock", "samples a second of processors")):
        peer, own = medians["theirs"][place], medians["two"][place]
        rows.append(Row(f"{what}, 2 workers, {unit}", f"{peer:.0f}", f"{own:.0f}", f"{own / peer:.2f}x"))
    one, two = medians["one"][0], medians["two"][0]
    rows.append(Row(f"{what}, two workers against one, samples/s", "", f"{one:.0f} -> {two:.0f}", f"{two / one:.2f}x"))
    kept = their_loader(pipeline, keep=True)
    peer, own = gaps(lambda epoch: kept), gaps(our_passes(ours[2]))
    rows.append(Row(f"{what}, first batch after an epoch's end, in times between batches", f"{peer:.2f}", f"{own:.2f}", ""))
    return rows


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for size, margin in (((512, 384), 2.0), ((1024, 768), 1.25)):
        with tempfile.TemporaryDirectory() as name:
            paths = write_shards(Path(name), size, arguments.samples)
            rows += compared(name, paths, size, margin, arguments.rounds)
    write_section("workers", "Loader workers", machine(1, arguments.rounds), rows)


if __name__ == "__main__":
    main()
