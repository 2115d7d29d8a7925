"""Shards as indexed arrays: random access beside sequential reading, the start over 20 million samples, memory over a run.

The first part reads the same shards with webdataset from the front to the end and with `ShardSource` in a drawn order. The
second opens 2,000 shards of 10,000 samples (one real shard and its index under 2,000 names) in a fresh process with two loader
workers. The third sends 200,000 of these samples through the loader to a model that does nothing, and compares the memory of
all processes (their proportional share, so that shared pages count once) after a tenth of them and at the end.

    python benchmarks/shards.py
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from report import Row, machine, write_section


def write_shard(path: Path, samples: int, size: tuple[int, int], seed: int = 0) -> None:
    """Noise smoothed to photographs' file sizes."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:
        for number in range(samples):
            small = Image.fromarray(rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            small.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            for name, content in (("jpg", buffer.getvalue()), ("txt", f"picture {number}".encode())):
                info = tarfile.TarInfo(f"{number:06d}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def access(folder: Path, rounds: int) -> tuple[float, float, float]:
    """Samples a second: webdataset in sequence, ours in a drawn order, ours in sequence; medians, interleaved, warm."""
    import webdataset

    from lightning_clip.data import ShardSource

    for shard in range(4):
        write_shard(folder / f"{shard}.tar", 500, (512, 384), shard)
    pattern = str(folder / "*.tar")
    source = ShardSource(pattern)
    order = source.order(0).samples(0, 0, len(source)).tolist()
    rates: dict[str, list[float]] = {"webdataset": [], "drawn": [], "in order": []}
    for number in range(rounds + 1):
        for name in rates:
            begun = time.process_time()
            if name == "webdataset":
                count = sum(
                    1 for _ in webdataset.WebDataset([str(folder / f"{shard}.tar") for shard in range(4)], shardshuffle=False)
                )
            else:
                count = sum(1 for index in (order if name == "drawn" else range(len(source))) if source[index].image)
            if number:  # the first round warms the page cache
                rates[name].append(count / (time.process_time() - begun))
    return tuple(statistics.median(values) for values in rates.values())  # type: ignore[return-value]


def memory(process: int, *kinds: str) -> float:
    """Memory of a process in MB, by the kernel's kinds: Rss, Pss (shared pages divided by their users), Private_Dirty ..."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds) / 1e3


def run(pattern: str, samples: int) -> None:
    """In a fresh process: opens, loads, prints what it took as JSON."""
    import torch

    from lightning_clip import ClipDataModule, ClipModule
    from lightning_clip.data.tokenizers import train_tokenizer

    torch.set_num_threads(1)
    vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1}
    text = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
    module = ClipModule(vit, text, embed_dim=16, tokenizer=train_tokenizer(["picture 1"], 300).to_mapping())
    begun = time.perf_counter()
    data = ClipDataModule(pattern, local_batch_size=100, num_workers=2).attach(module)
    batches = iter(data.train_dataloader())
    next(batches)
    found = {"start": time.perf_counter() - begun, "length": len(data.source("train"))}
    workers = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined]
    processes = [os.getpid(), *workers]
    done = 100
    for batch in batches:
        done += len(batch.image)
        if done == samples // 10:
            gc.collect()  # the main process' first full collection copies the pages that it shares with its workers
            found["early"] = sum(memory(process, "Pss") for process in processes)
        if done >= samples:
            break
    gc.collect()
    found["late"] = sum(memory(process, "Pss") for process in processes)
    found["share"] = max(memory(worker, "Pss") for worker in workers)
    found["own"] = max(memory(worker, "Private_Dirty", "Private_Clean") for worker in workers)
    found["resident"] = max(memory(worker, "Rss") for worker in workers)
    found["state"] = len(json.dumps(data.train_dataloader().state_dict()))
    print(json.dumps(found))


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.samples)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "few").mkdir()
        (folder / "many").mkdir()
        webdataset, drawn, ordered = access(folder / "few", arguments.rounds)
        write_shard(folder / "one.tar", 10_000, (32, 32))
        from lightning_clip.data.shards import open_index

        open_index(folder / "one.tar")
        for number in range(2000):
            os.link(folder / "one.tar", folder / "many" / f"{number:04d}.tar")
            os.link(folder / "one.tar.index", folder / "many" / f"{number:04d}.tar.index")
        command = [sys.executable, __file__, "--run", str(folder / "many" / "*.tar"), "--samples", str(arguments.samples)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(answer.splitlines()[-1])
    rows = [
        Row("samples/s, warm, in a drawn order", f"{webdataset:,.0f}", f"{drawn:,.0f}", f"{drawn / webdataset:.2f}x"),
        Row("the same in sequence", f"{webdataset:,.0f}", f"{ordered:,.0f}", f"{ordered / webdataset:.2f}x"),
        Row(f"first batch of {found['length']:,} samples in 2,000 shards", "", f"{found['start']:.2f} s", ""),
        Row("a worker's own memory", "", f"{found['own']:.0f} MB", ""),
        Row("a worker's memory with its share of common pages", "", f"{found['share']:.0f} MB", ""),
        Row("a worker's memory with all common pages (libraries)", "", f"{found['resident']:.0f} MB", ""),
        Row("state in a checkpoint", "", f"{found['state']} bytes", ""),
        Row(
            f"memory of all processes after {arguments.samples // 10:,} and {arguments.samples:,} samples",
            f"{found['early']:.0f} MB", f"{found['late']:.0f} MB", f"{found['late'] / found['early']:.3f}",
        ),
    ]  # fmt: skip
    write_section("shards", "Shards", machine(1, arguments.rounds), rows, ("webdataset, or before", "lightning_clip"))


if __name__ == "__main__":
    main()
