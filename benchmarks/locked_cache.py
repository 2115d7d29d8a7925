"""Epochs with a locked image tower, with its features kept on disk and without: the same run twice, taking turns by epoch.

Photographs and captions are Flickr8k's (LIGHTNING_CLIP_DATA); weights are random, which changes neither the times nor whether
losses are the same. Each epoch is a run that goes on from the checkpoint of the one before.

    LIGHTNING_CLIP_DATA=/path/to/data python benchmarks/locked_cache.py --photos 512 --epochs 4
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from report import Row, machine, write_section

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data.sources import Subset, pair_sources

IMAGE = {"name": "vit_small_patch16_224", "image_size": 144}
TEXT = "clip_text_small"


class Watch(pl.Callback):
    """Seconds of an epoch's batches, the loader's work included, and their losses."""

    def __init__(self) -> None:
        self.seconds, self.losses = 0.0, []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.start


class Side:
    """A run, epoch by epoch."""

    def __init__(self, photos: Any, batch: int, folder: Path, cache: Path | None) -> None:
        self.photos, self.batch, self.folder, self.cache = photos, batch, folder, cache
        self.epochs: list[Watch] = []

    def epoch(self) -> None:
        torch.manual_seed(0)
        adapt = {"image": {"lock": True, **({"cache": str(self.cache)} if self.cache else {})}}
        optimizer = {"lr": 1e-4, "warmup_steps": 0, "schedule": "constant"}
        module = ClipModule(
            IMAGE,
            TEXT,
            embed_dim=256,
            towers={"image": {"transform": {"augment": False}}},
            training={"optimizer": optimizer, "adapt": adapt},
        )
        watch = Watch()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
        trainer = pl.Trainer(accelerator="cpu", max_epochs=len(self.epochs) + 1, callbacks=[watch], **quiet)
        last = self.folder / "last.ckpt"
        trainer.fit(
            module,
            ClipDataModule(self.photos, local_batch_size=self.batch),
            ckpt_path=last if self.epochs else None,
            weights_only=True,
        )
        trainer.save_checkpoint(last)
        self.epochs.append(watch)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    if not (data := os.environ.get("LIGHTNING_CLIP_DATA")):
        sys.exit("benchmarks/locked_cache.py: LIGHTNING_CLIP_DATA does not name the folder of real pairs")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    table = Path(data) / "flickr8k" / "captions.jsonl"
    where = {"name": str(table), "images": "images_144.tar", "caption_column": "en", "where": {"split": "train"}}
    photos = Subset(pair_sources.build(where), range(arguments.photos))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in ("plain", "cached"):
            (folder / side).mkdir()
        plain = Side(photos, arguments.batch, folder / "plain", None)
        cached = Side(photos, arguments.batch, folder / "cached", folder / "cache")
        for _ in range(arguments.epochs):
            plain.epoch()
            cached.epoch()
    pairs = [pair for a, b in zip(plain.epochs, cached.epochs, strict=True) for pair in zip(a.losses, b.losses, strict=True)]
    off = max(abs(ours / theirs - 1) for theirs, ours in pairs)
    without, first = statistics.median(watch.seconds for watch in plain.epochs), cached.epochs[0].seconds
    later = statistics.median(watch.seconds for watch in cached.epochs[1:])
    same = f"losses to {off:.0e}" if off else "the same losses"
    rows = [
        Row("the first epoch", f"{without:.1f} s", f"{first:.1f} s", f"{without / first:.2f}x"),
        Row(
            "epochs after the first",
            f"{without:.1f} s",
            f"{later:.1f} s",
            f"{without / later:.1f}x faster, {same}",
        ),
    ]
    title = f"A locked ViT-S/16 of 144 px with {TEXT}, {arguments.photos} photographs in batches of {arguments.batch}, float32"
    write_section("locked_cache", title, machine(1, arguments.epochs), rows, ("without a cache", "features kept"))


if __name__ == "__main__":
    main()
