"""A source with every kind of column, modules that read them, and their gradients however they are run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from small import IMAGE, TEXT
from torch import Tensor

import lightning_clip.variants  # noqa: F401  (registers the towers)
from lightning_clip import ClipModule, Pair, PairBatch
from lightning_clip.data import PairSource
from lightning_clip.training.micro_batches import encode_in_slices, take

WORDS = ("red", "blue", "green", "small", "large", "left", "right", "night")
SETTINGS: dict[str, Any] = {
    "embed_dim": 16,
    "tokenizer": {"name": "clip", "context_length": 24},
    "training": {"optimizer": {"lr": 1e-2, "eps": 1e-2, "warmup_steps": 0, "schedule": "constant"}},
}
DEPTH = {"name": "depth_map", "width": 8, "depth": 2}
# What makes each variant of a ClipModule.
VARIANTS: dict[str, dict[str, Any]] = {
    "pairs": {},
    "geoclip": {
        "towers": {"gps": {"name": "coordinates", "width": 16, "scales": [1.0, 4.0]}},
        "objective": {"name": "pairs", "between": ["image", "gps"]},
    },
    "audio": {
        "towers": {"audio": {"name": "spectrogram", "width": 8, "window": 64}},
        "objective": {"name": "pairs", "between": ["audio", "text"]},
    },
    "imagebind": {
        "towers": {"depth": DEPTH},
        "objective": [{"name": "pairs"}, {"name": "pairs", "between": ["image", "depth"], "weight": 0.5}],
    },
    "simclr": {
        "towers": {"image": {"projection": "mlp", "transform": {"views": 2, "flip": 0.5, "crop_scale": [0.5, 1.0]}}},
        "objective": {"name": "simclr", "temperature": 0.2},
    },
}


class Senses(PairSource):
    """Coloured squares with a caption, a place on Earth, a depth map and a tone."""

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        words = [WORDS[place] for place in torch.randint(0, len(WORDS), (1 + index % 4,), generator=generator).tolist()]
        columns = {
            "gps": (float(index % 180 - 90), float(index * 7 % 360 - 180)),
            "depth": torch.rand(1, 16, 16, generator=generator).numpy(),
            "audio": torch.randn(200 + 50 * (index % 3), generator=generator).numpy(),
        }
        return Pair(pixels, (" ".join(words),), key=str(index), columns=columns)


def module_of(variant: str, **arguments: Any) -> ClipModule:
    """The smallest module of a variant, from one seed."""
    torch.manual_seed(0)
    found = {**SETTINGS, **VARIANTS[variant], **arguments}
    return ClipModule(IMAGE, TEXT if variant in ("pairs", "audio", "imagebind") else None, **found)


def batch_of(module: ClipModule, source: PairSource, size: int = 12) -> PairBatch:
    """The first samples of a source as the loader makes them for training, in the source's order."""
    generator = torch.Generator().manual_seed(1)
    pairs = [source[index] for index in range(size)]
    texts = [pair.captions[0] for pair in pairs]
    tokens, mask = module.tokenizer(texts) if module.tokenizer is not None else (None, None)
    columns: dict[str, Any] = {}
    for column, collate in module.columns().items():
        if collate is not None:
            columns[column] = collate([pair.columns[column] for pair in pairs])
        elif column.startswith("view"):
            columns[column] = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return PairBatch(
        image=torch.stack([pair.image for pair in pairs]),  # type: ignore[misc]
        tokens=tokens,
        mask=mask,
        label=torch.full((size,), -1),
        index=torch.arange(size),
        captions=[pair.captions for pair in pairs],
        keys=[pair.key for pair in pairs],
        skipped=[],
        columns=columns,
    )


def gradients(module: ClipModule, batch: PairBatch, micro_batch_size: int | None = None) -> dict[str, Tensor]:
    """Of a training step, averaged over ranks as DDP does."""
    module.zero_grad()
    output = encode_in_slices(module.encoded_rows, batch, micro_batch_size or batch.size)
    module.compute_loss(output, batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    if dist.is_initialized():
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    return found


def share(batch: PairBatch, rank: int, first: int) -> PairBatch:
    """The first rows for rank 0, the others for rank 1."""
    return take(batch, torch.arange(first) if rank == 0 else torch.arange(first, batch.size))


def error_of(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients, relative to their norm."""
    assert set(found) == set(expected) and expected
    difference = sum(float((found[name] - value).double().square().sum()) for name, value in expected.items())
    return float((difference / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5)
