"""Retrieval of 10,000 images and 50,000 captions, d = 512, spread over two processes beside the same in one.

The one process has two threads and all features; the two have a thread and half of the features each, and captions go round in
blocks. Ranks are compared; the time is the processors', of all processes together; memory is the peak over a process' own
features. From the pairs scored in a second follows what 1,000,000 images and 5,000,000 captions would take.

    python benchmarks/retrieval_over_ranks.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing
from memory import peak_bytes
from report import Row, machine, write_section
from retrieval import features

from lightning_clip.metrics.over_ranks import ranks_over_processes

PROCESSES = 2


class Found(NamedTuple):
    """Of one process."""

    seconds: float
    peak: int
    text_to_image: list[int]
    image_to_text: list[int]


def measured(images: int, captions: int, dim: int, block: int, rank: int, world_size: int) -> Found:
    """This process' share: every image of a number that leaves `rank`, and a run of captions, whose images are anywhere."""
    pictures, texts, owner = features(images, captions, dim)
    numbers, run = (
        torch.arange(rank, images, world_size),
        slice(captions * rank // world_size, captions * (rank + 1) // world_size),
    )
    share = pictures[numbers], texts[run].clone(), numbers, owner[run].clone()
    del pictures, texts, owner
    small = features(500, 2500, dim) if world_size == 1 else None
    if small:
        ranks_over_processes(small[0], small[1], torch.arange(500), small[2], each_caption=False)
    found: dict[str, Any] = {}

    def timed() -> None:
        if world_size > 1:
            dist.barrier()
        start = time.process_time()
        found["ranks"] = ranks_over_processes(*share, each_caption=False, block=block)
        found["seconds"] = time.process_time() - start

    peak = peak_bytes(timed)
    ranks = found["ranks"]
    return Found(found["seconds"], peak, ranks.text_to_image.tolist(), ranks.image_to_text.tolist())


def process(rank: int, folder: str, world_size: int, sizes: tuple[int, int, int, int]) -> None:
    torch.set_num_threads(PROCESSES // world_size)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(tuple(measured(*sizes, rank, world_size)), Path(folder) / f"{rank}.pt")
    if world_size > 1:
        dist.destroy_process_group()


def run(world_size: int, sizes: tuple[int, int, int, int]) -> list[Found]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (folder, world_size, sizes), nprocs=world_size)
        return [Found(*torch.load(Path(folder) / f"{rank}.pt")) for rank in range(world_size)]


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--captions", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--block", type=int, default=4096)
    arguments = parser.parse_args()
    sizes = (arguments.images, arguments.captions, arguments.dim, arguments.block)
    (alone,), shared = run(1, sizes), run(PROCESSES, sizes)
    texts = [rank for part in shared for rank in part.text_to_image]
    images = torch.empty(arguments.images, dtype=torch.int64)
    for rank, part in enumerate(shared):
        images[rank::PROCESSES] = torch.tensor(part.image_to_text)
    differing = sum(a != b for a, b in zip(texts, alone.text_to_image, strict=True))
    differing += int((images != torch.tensor(alone.image_to_text)).sum())
    ratio = alone.seconds / sum(part.seconds for part in shared)
    together, peak = sum(part.seconds for part in shared), max(part.peak for part in shared)
    rate = arguments.images * arguments.captions / together
    whole = 4 * arguments.dim * 6_000_000 / 2**30
    rows = [
        Row(
            "seconds of CPU time, both directions",
            f"{alone.seconds:.1f}",
            f"{together:.1f}",
            f"{ratio:.2f}x",
        ),
        Row("peak memory over a process' own features, MiB", f"{alone.peak / 2**20:,.0f}", f"{peak / 2**20:,.0f}", ""),
        Row(f"ranks that differ of {arguments.images + arguments.captions:,}", "", f"{differing}", ""),
        Row("1,000,000 images, 5,000,000 captions at this rate, core hours", "", f"{5e12 / rate / 3600:,.0f}", ""),
        Row("their features, GiB, of which each process holds its share", f"{whole:.1f}", f"{whole:.1f} / processes", ""),
    ]
    title = f"Retrieval over processes: {arguments.images:,} images, {arguments.captions:,} captions, d = {arguments.dim}"
    write_section("retrieval_over_ranks", title, machine(1, 1), rows, ("one process", f"{PROCESSES} processes"))


if __name__ == "__main__":
    main()
