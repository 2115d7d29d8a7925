"""A training with everything that draws: two captions, random crops and flips, dropout. Small enough to be killed often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.killed import Plan
from small import TEXT, small_module

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data.tokenizers import train_tokenizer

__all__ = ["GLOBAL_BATCH", "SAMPLES", "STEPS", "runs"]

# 50 samples in global batches of 8: epochs of 6 steps, so that steps 6, 12 and 18 end one.
SAMPLES, GLOBAL_BATCH, STEPS = 50, 8, 20
IMAGE = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2}


def runs(
    table: str,
    ranks: int,
    workers: int,
    *,
    before: Callable[[Any, Any, Any], None] | None = None,
    save_every: int = 3,
    **options: Any,
) -> Plan:
    """The training over a table of pairs.

    Args:
        table: captions and images, 50 pairs.
        ranks: over which a global batch is spread.
        workers: of each rank's loader.
        before: see `Plan`.
        save_every: optimizer steps between checkpoints.
        **options: of the Trainer; `val_check_interval` validates on the same pairs.
    """
    tokenizer = train_tokenizer(["picture 1", "image number 2"], 300).to_mapping()

    def make() -> tuple[ClipModule, ClipDataModule]:
        module = small_module(
            transform={"crop_scale": [0.1, 1.0], "flip": 0.5},
            tokenizer=tokenizer,
            image_encoder={**IMAGE, "drop_rate": 0.1},
            text_encoder=TEXT,
        )
        validates = options.get("val_check_interval") is not None
        batch = GLOBAL_BATCH // ranks // options.get("accumulate_grad_batches", 1)
        data = ClipDataModule(table, table if validates else None, local_batch_size=batch, num_workers=workers)
        return module, data

    return Plan(make, ranks, STEPS, save_every, options=options, before=before)
