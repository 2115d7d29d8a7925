"""Samples a second from tar shards: the loader alone, and `Trainer.fit` on a GPU that may wait for it. Run by gpu.py.

JPEGs of 512 x 384 at quality 90, captions of Flickr8k's lengths, a crop to the tower's size, a worker a core but one. Workers
decode the JPEGs, or the card does (`decoder: cuda`). What is not counted: of the loader alone the first batches, of a fit the
first epoch, in which workers start and towers are compiled.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from captions import lengths_like_flickr8k
from gpu_losses import DEVICE
from PIL import Image

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data.encoded import with_pixels

WARM, EPOCHS = 4, 3


class Run(NamedTuple):
    """How much is read, by how many, and for which towers; of a tower compiled or not."""

    samples: int
    batch: int
    workers: int
    images: tuple[tuple[dict[str, Any], bool], ...]
    text: dict[str, Any]


WORKERS = max(1, min(16, (os.cpu_count() or 2) - 1))
FULL = Run(
    16_384,
    1024,
    WORKERS,
    (({"name": "vit_base_patch32_clip_224"}, False), ({"name": "vit_base_patch16_clip_224"}, True)),
    {"name": "clip_text_base"},
)
SMALL = {"name": "vit_tiny_patch16_224", "image_size": 32, "depth": 1}
DRY = Run(96, 8, 0, ((SMALL, False),), {"name": "clip_text", "width": 32, "layers": 1, "heads": 2})
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
    """Seconds from the end of the first epoch to the end of the fit, the device's work included."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        if trainer.current_epoch == 0:
            self.begun = time.perf_counter()
        self.seconds = time.perf_counter() - self.begun


def table(run: Run, until: float, note: Any) -> list[str]:
    """Markdown: the loader alone, and fits of three epochs, for either decoder; what there is no time for is absent."""
    lines = ["| from shards | JPEGs are decoded by | samples/s |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), run.samples)
        for what, decoder, measure in jobs(run, f"{name}/*.tar"):
            if time.monotonic() > until:
                print(f"no time for {what}, decoded by {decoder}", flush=True)
                continue
            rate = measure()
            lines.append(f"| {what} | {decoder} | {rate:,.0f} |")
            note({"shards": what, "decoder": decoder, "rate": rate})
            print(lines[-1], flush=True)
    return lines


def jobs(run: Run, shards: str) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """What is measured, what decodes, and how."""
    decoders = {"cuda": "the card", "cpu": "workers"} if DEVICE == "cuda" else {"cpu": "workers"}
    for decoder, words in decoders.items():
        for place, (image, compiled) in enumerate(run.images):
            module = ClipModule(
                image, run.text, towers={"image": {"transform": {"decoder": decoder}}}, embed_dim=512 if run.workers else 16,
                training={"execution": {"compile": compiled}},
            )  # fmt: skip
            data = ClipDataModule(shards, local_batch_size=run.batch, num_workers=run.workers)
            if place == 0:
                yield f"loader alone, {run.workers} workers", words, partial(loader_rate, data.attach(module), run)
            what = f"fit, {image['name']}{', compiled' * compiled}, batches of {run.batch:,}"
            yield what, words, partial(fit_rate, module, data, run)


def loader_rate(data: Any, run: Run) -> float:
    """Pixels on the device, one batch after the other."""
    times = []
    for batch in data.train_dataloader():
        float(with_pixels(batch, torch.device(DEVICE)).image.to(DEVICE)[0, 0, 0, 0])
        times.append(time.perf_counter())
    return run.batch * (len(times) - 1 - WARM) / (times[-1] - times[WARM])


def fit_rate(module: Any, data: Any, run: Run) -> float:
    clock = Clock()
    precision: Any = "bf16-mixed" if DEVICE == "cuda" else "32-true"
    trainer = pl.Trainer(
        accelerator="gpu" if DEVICE == "cuda" else "cpu", devices=1, max_epochs=EPOCHS, precision=precision, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    return run.samples // run.batch * run.batch * (EPOCHS - 1) / clock.seconds
