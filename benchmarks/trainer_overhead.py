"""What Lightning's Trainer and ClipModule cost over a bare loop with the same model, loss, optimizer and batches.

Steps of about 100 ms, progress bar off, logging every 50 steps, one thread; both loops take turns in one process.

    python benchmarks/trainer_overhead.py --steps 20 --rounds 5
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from report import Row, machine, write_section
from torch.utils.data import DataLoader

from lightning_clip import ClipDataModule, ClipModule, PairBatch

IMAGE = {"name": "vit_tiny_patch16_224", "image_size": 64, "patch_size": 16, "depth": 6}
TEXT = {"name": "clip_text", "width": 192, "layers": 3, "heads": 3}


class Timed(pl.Callback):
    """Takes the time between the first and the last batch."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.start = time.perf_counter()
        self.end = time.perf_counter()


def module() -> ClipModule:
    torch.manual_seed(0)
    built = ClipModule(IMAGE, TEXT, embed_dim=128, training={"optimizer": {"warmup_steps": 1}})
    built.configure_model()
    return built


def with_trainer(batches: list[PairBatch]) -> float:
    timed = Timed()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=len(batches),
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[timed],
        )
        trainer.fit(module(), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return (timed.end - timed.start) / (len(batches) - 1)


def bare(batches: list[PairBatch]) -> float:
    """What a careful person would write: one file, no framework."""
    model = module().model
    loss = ClipModule(IMAGE, TEXT, embed_dim=128).objective.loss
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: list[Any] = [{"params": decayed, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    start = 0.0
    for number, batch in enumerate(batches):
        output = model(batch.image, batch.tokens, batch.mask, batch.lengths)
        value = loss(output.image_features, output.text_features, output.scale)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6052)
        if number == 0:
            start = time.perf_counter()
    return (time.perf_counter() - start) / (len(batches) - 1)


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    scenes = {"name": "synthetic", "size": arguments.batch * arguments.steps, "image_size": 64}
    data = ClipDataModule(train=scenes, local_batch_size=arguments.batch).attach(module())
    batches = list(data.train_dataloader())
    times: dict[str, list[float]] = {"bare": [], "trainer": []}
    for number in range(arguments.rounds + 1):
        for name, run in (("bare", bare), ("trainer", with_trainer)):
            value = run(batches)
            if number:
                times[name].append(value)
    # The pairs of a round ran one after the other: their ratio feels a busy machine least.
    ratio = statistics.median(ours / theirs for ours, theirs in zip(times["trainer"], times["bare"], strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    row = Row(
        f"a step of {arguments.batch} pairs",
        f"{1000 * medians['bare']:.1f} ms",
        f"{1000 * medians['trainer']:.1f} ms",
        f"{100 * (ratio - 1):+.1f} %",
    )
    title = "Trainer and ClipModule over a bare loop, float32"
    write_section("trainer_overhead", title, machine(1, arguments.rounds), [row], heads=("a bare loop", "Trainer.fit"))


if __name__ == "__main__":
    main()
