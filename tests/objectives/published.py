"""Small modules, batches and gradients of the published methods, for tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from small import IMAGE, TEXT
from torch import Tensor
from variants.senses import share

from lightning_clip import ClipModule, Pair, PairBatch
from lightning_clip.data import PairSource

VIEWS = {"towers": {"image": {"transform": {"views": 3, "flip": 0.5, "crop_scale": [0.5, 1.0]}}}}
THINGS = ("cube", "ball", "cone", "ring")
COLOURS = ("red", "blue", "green", "black")
WORDS = dict.fromkeys((*THINGS, *COLOURS, "picture"), 1.0)
METHODS: dict[str, dict[str, Any]] = {
    "several_texts": {"objective": {"name": "several_texts", "count": 2}},
    "several_texts_sigmoid": {"objective": {"name": "several_texts", "loss": "sigmoid"}},
    "negclip": {"objective": {"name": "negclip"}},
    "flair": {"objective": [{"name": "pairs", "loss": "sigmoid"}, {"name": "flair", "heads": 2, "rows_at_once": 5}]},
    "fastclip": {"objective": {"name": "fastclip", "samples": 64, "gamma": 0.5}},
    "clip_refine": {"objective": {"name": "clip_refine"}},
    "slip": {"objective": [{"name": "pairs"}, {"name": "slip", "hidden": 32, "width": 16}], **VIEWS},
    "silc": {"objective": [{"name": "pairs"}, {"name": "silc", "prototypes": 32, "momentum": 0.9}], **VIEWS},
    "tips": {"objective": [{"name": "pairs"}, {"name": "tips", "prototypes": 32, "momentum": 0.9}], **VIEWS},
    "superclip": {"objective": [{"name": "pairs"}, {"name": "words", "weight": 0.5, "vocabulary": WORDS}]},
    "siglip2": {
        "objective": [
            {"name": "pairs", "loss": "sigmoid"},
            {"name": "captioning", "decoder": {"layers": 1, "width": 32, "heads": 2}},
            {"name": "tips", "weight": 0.5, "prototypes": 32, "momentum": 0.9},
        ],
        **VIEWS,
    },
}


class Captions(PairSource):
    """Pictures of noise, each with one to three captions that name colours and things."""

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        one, two = COLOURS[index % 4], COLOURS[(index // 4 + 1) % 4]
        thing, other = THINGS[index // 2 % 4], THINGS[index // 3 % 4]
        captions = (f"a {one} {thing} and a {two} {other}", f"{one} {thing}", f"a picture with number {index}")
        return Pair(pixels, captions[: 1 + index % 3], key=str(index))


def published(method: str, seed: int = 0, **arguments: Any) -> ClipModule:
    """The smallest module that learns by a method."""
    torch.manual_seed(seed)
    settings = {"embed_dim": 16, "tokenizer": {"name": "clip", "context_length": 24}, **METHODS[method], **arguments}
    image = {**IMAGE, "patch_size": 8}
    settings.setdefault("training", {"optimizer": {"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"}})
    module = ClipModule(image, TEXT, **settings)
    module.configure_model()  # now, from this seed
    return module


def batch_of(module: ClipModule, size: int = 12, first: int = 0) -> PairBatch:
    """A batch of training, its views drawn from one seed."""
    pairs = [Captions()[index] for index in range(first, first + size)]
    texts = [pair.captions[0] for pair in pairs]
    assert module.tokenizer is not None
    tokens, mask = module.tokenizer(texts)
    generator = torch.Generator().manual_seed(1)
    views = [column for column in module.columns() if column.startswith("view")]
    image = torch.stack([pair.image for pair in pairs])  # type: ignore[misc]
    changes = [torch.randint(-20, 20, image.shape, generator=generator) for _ in views]
    return PairBatch(
        image=image,
        tokens=tokens,
        mask=mask,
        label=torch.full((size,), -1),
        index=torch.arange(first, first + size),
        captions=[pair.captions for pair in pairs],
        keys=[pair.key for pair in pairs],
        skipped=[],
        texts=texts,
        columns={view: (image + change).clamp(0, 255).to(torch.uint8) for view, change in zip(views, changes, strict=True)},
    )


def step_gradients(method: str, micro_batch_size: int | None = None, rank: int | None = None) -> dict[str, Tensor]:
    """Of a method's training step on the first twelve pairs, or on this rank's uneven share of them."""
    module = published(method)
    batch = batch_of(module)
    batch = batch if rank is None else share(batch, rank, 8)
    module.micro_batch_size = micro_batch_size
    module.compute_loss(module.encode_batch(batch), batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    if dist.is_initialized():  # as DDP does
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    return found
