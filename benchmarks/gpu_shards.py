"""Samples a second from tar shards: the loader alone, and `Trainer.fit` on a GPU that may wait for it. Run by gpu.py.

JPEGs of 512 x 384 at quality 90, captions of Flickr8k's lengths, a crop to the tower's size, a worker a core but one. The first
batches, while workers start, are not counted.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
from captions import lengths_like_flickr8k
from gpu_losses import DEVICE
from PIL import Image

from lightning_clip import ClipDataModule, ClipModule

WARM = 4  # batches


class Run(NamedTuple):
    """How much is read and by whom."""

    samples: int
    batch: int
    workers: int
    image: dict[str, Any]
    text: dict[str, Any]


WORKERS = max(1, min(16, (os.cpu_count() or 2) - 1))
FULL = Run(16_384, 1024, WORKERS, {"name": "vit_base_patch32_clip_224"}, {"name": "clip_text_base"})
SMALL = {"name": "vit_tiny_patch16_224", "image_size": 32, "depth": 1}
DRY = Run(96, 8, 0, SMALL, {"name": "clip_text", "width": 32, "layers": 1, "heads": 2})
WORDS = ("a photo of the dog that runs over green grass", "in front of two people and a red ball")


def photograph(rng: np.random.Generator) -> bytes:
    """Smooth noise of several scales, of the size of a photograph's file."""
    pixels = np.full((384, 512, 3), 127.0)
    for scale in (2, 4, 8, 16, 32, 64, 128):
        noise = rng.integers(0, 255, (max(2, 384 // scale), max(2, 512 // scale), 3), dtype=np.uint8)
        layer = np.asarray(Image.fromarray(noise).resize((512, 384), Image.Resampling.BICUBIC), dtype=np.float64) - 127
        pixels += layer * scale**0.6 * 0.08
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, samples: int, shards: int = 8) -> None:
    """Pairs in tar files; a few pictures are written again and again, which a decoder does not notice."""
    rng, words = np.random.default_rng(0), " ".join(WORDS).split()
    pictures, lengths = [photograph(rng) for _ in range(min(64, samples))], lengths_like_flickr8k(samples)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(shard, samples, shards):
                caption = " ".join(words[place % len(words)] for place in range(max(1, lengths[number] - 2)))
                for name, content in (("jpg", pictures[number % len(pictures)]), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


class Clock(pl.Callback):
    """When each step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if len(self.times) == WARM:
            float(trainer.callback_metrics["train/loss"])  # the device has caught up
        self.times.append(time.perf_counter())


def table(run: Run, note: Any) -> list[str]:
    """Markdown: the loader alone, and a fit of two epochs."""
    lines = ["| from shards | samples/s |", "|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), run.samples)
        module = ClipModule(run.image, run.text, embed_dim=512 if run.workers else 16)
        data = ClipDataModule(f"{name}/*.tar", local_batch_size=run.batch, num_workers=run.workers)
        module_data = data.attach(module)
        found = {
            f"loader alone, {run.workers} workers": loader_rate(module_data, run),
            f"fit, {run.image['name']}, batches of {run.batch:,}": fit_rate(module, data, run),
        }
    for what, rate in found.items():
        lines.append(f"| {what} | {rate:,.0f} |")
        note({"shards": what, "rate": rate})
        print(lines[-1], flush=True)
    return lines


def loader_rate(data: Any, run: Run) -> float:
    times = []
    for _ in data.train_dataloader():
        times.append(time.perf_counter())
    return rate_of(times, run.batch)


def fit_rate(module: Any, data: Any, run: Run) -> float:
    clock = Clock()
    precision: Any = "bf16-mixed" if DEVICE == "cuda" else "32-true"
    trainer = pl.Trainer(
        accelerator="gpu" if DEVICE == "cuda" else "cpu", devices=1, max_epochs=2, precision=precision, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    return rate_of(clock.times, run.batch)


def rate_of(times: list[float], batch: int) -> float:
    return batch * (len(times) - 1 - WARM) / (times[-1] - times[WARM])
