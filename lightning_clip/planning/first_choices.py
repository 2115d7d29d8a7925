"""Size of pictures, towers, batch and epochs of a first run, by the time there is and the speed of this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from lightning_clip.module.clip_module import ClipModule
from lightning_clip.planning.devices import find_device
from lightning_clip.planning.first_look import Look
from lightning_clip.planning.machines import Machines
from lightning_clip.planning.plan import make_plan

__all__ = ["Choices", "Rung", "choose", "measured_speed"]

_FEW = 3000  # pairs below which more epochs are wanted
_SHARE = 0.7  # of the time is planned for training steps; the rest is loading, validation and the report
_BATCH = 32  # of the trial by which this machine's speed is measured


@dataclass(frozen=True)
class Rung:
    """Towers of one size.

    Attributes:
        image: settings of the image tower, without `image_size`.
        image_size: side in pixels.
        width, layers: of the text tower.
        embed_dim: of the shared space.
        epochs: that are wanted of so large a model, at least.
    """

    image: dict[str, Any]
    image_size: int
    width: int
    layers: int
    embed_dim: int
    epochs: int

    def module(self, context_length: int, tokenizer: Any = None) -> ClipModule:
        """A module of these towers, not built yet."""
        text = {"name": "clip_text", "width": self.width, "layers": self.layers, "heads": max(2, self.width // 64)}
        return ClipModule(
            {**self.image, "image_size": self.image_size},
            text,
            embed_dim=self.embed_dim,
            tokenizer=tokenizer or {"name": "clip", "context_length": context_length},
        )


# From small to large; the first three serve CPUs, the last two GPUs with an hour or more.
LADDER = (
    Rung({"name": "small_conv", "widths": [64, 128, 256]}, 32, 128, 2, 128, 4),
    Rung({"name": "small_conv"}, 48, 192, 2, 192, 4),
    Rung({"name": "small_conv"}, 64, 192, 2, 256, 6),
    Rung({"name": "resnet18"}, 96, 256, 3, 256, 10),
    Rung({"name": "resnet50"}, 160, 384, 6, 384, 15),
    Rung({"name": "vit_small_patch16_224"}, 224, 384, 6, 384, 30),
    Rung({"name": "vit_base_patch16_224"}, 224, 512, 12, 512, 30),
)
_MOST_EPOCHS = 40  # more than that, small data is learnt by heart


@dataclass(frozen=True)
class Choices:
    """What a recipe is written with.

    Attributes:
        rung: the towers.
        batch_size: pairs a step.
        epochs: of the training pairs.
        samples_per_second: expected.
        context_length: tokens of a caption.
        device: "cpu" or "cuda".
        workers: loader processes.
    """

    rung: Rung
    batch_size: int
    epochs: int
    samples_per_second: float
    context_length: int
    device: str
    workers: int

    @property
    def minutes_per_pair(self) -> float:
        """Minutes for each training pair, over all epochs, with what is around the steps."""
        return self.epochs / max(1e-9, self.samples_per_second) / 60 / _SHARE


def choose(look: Look, minutes: float, device: str, speed: float, context_length: int, cores: int) -> Choices:
    """The largest towers for which the time gives enough epochs of the pictures there are.

    Args:
        look: at the data.
        minutes: that the run may take.
        device: "cpu" or "cuda".
        speed: FLOP/s that this machine reaches, see `measured_speed`.
        context_length: tokens of a caption.
        cores: of the machine.
    """
    largest = max(32, -(-look.short_side // 16) * 16)  # sizes beyond the pictures' own show nothing more
    fitting = [rung for rung in LADDER if rung.image_size <= largest] or [LADDER[0]]
    budget = 60 * minutes * _SHARE
    chosen, rate = fitting[0], 0.0
    for rung in fitting:
        own = speed / _flops_per_pair(LADDER.index(rung), context_length)  # pairs a second
        if rung is not fitting[0] and budget * own < _wanted(rung, look.pairs):
            break  # those after it cost more
        chosen, rate = rung, own
    epochs = max(1, min(_MOST_EPOCHS, int(budget * rate / look.pairs)))
    wanted = 512 if device == "cuda" else 128
    batch = max(1, min(wanted, max(look.pairs // 10 // 8 * 8, min(16, look.pairs // 2))))  # some ten steps an epoch
    return Choices(chosen, batch, epochs, rate, context_length, device, max(0, min(4, cores - 1)))


def _wanted(rung: Rung, pairs: int) -> float:
    """Pairs that towers should see at least; few of them have to be seen more often."""
    return rung.epochs * pairs * max(1.0, min(3.0, _FEW / pairs))


def measured_speed(device: str) -> float:
    """FLOP/s of useful work that this machine reaches in training a small model: the best of three steps.

    Of a CPU the time that the process was given counts, so that other work on it does not choose small towers.

    Args:
        device: "cpu" or "cuda".
    """
    rung, length = LADDER[2], 32
    module = rung.module(length)
    model = module.model.to(device).train()
    image = torch.randint(0, 256, (_BATCH, 3, rung.image_size, rung.image_size), dtype=torch.uint8, device=device)
    tokens = torch.ones(_BATCH, length, dtype=torch.long, device=device)
    mask = torch.ones(_BATCH, length, dtype=torch.bool, device=device)
    clock = time.perf_counter if device == "cuda" else lambda: time.process_time() / torch.get_num_threads()
    best = float("inf")
    for _ in range(3):
        begun = clock()
        features = model.encode_image(image) @ model.encode_text(tokens, mask).T  # (B, D) @ (D, B) -> (B, B)
        features.diagonal().sum().backward()  # type: ignore[no-untyped-call]
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begun)
        model.zero_grad()
    return _flops_per_pair(LADDER.index(rung), length) * _BATCH / best


@lru_cache
def _flops_per_pair(place: int, context_length: int) -> float:
    """Of the towers at that place of the ladder, forward and backward, as `plan` counts them."""
    rung = LADDER[place]
    machines = Machines(find_device("this machine", peak_flops=1e12))
    plan = make_plan(rung.module(context_length), machines, samples=1, local_batch_size=_BATCH)
    return float(plan.flops_per_sample.useful)
