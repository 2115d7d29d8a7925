"""Whole training steps on a GPU beside open_clip's: the same towers, batch, autocast and optimizer. Run by gpu.py.

Images arrive as uint8 in pinned memory, captions have the lengths of Flickr8k's; here they are packed where the card has
kernels for it, else sorted into chunks by length, open_clip pads them to 77. MFU counts the products of the tokens that there
are (of an image 50 to 257, of a caption 14), three times the forward half, of the card's 989 TFLOP/s for dense bfloat16 (H100
SXM, H200).
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from captions import lengths_like_flickr8k
from gpu_losses import DEVICE
from torch import Tensor

from lightning_clip.losses import SoftmaxContrastiveLoss
from lightning_clip.model.clip import ClipModel
from lightning_clip.training.execution import ExecutionSettings, prepare
from lightning_clip.training.optim import OptimizerSettings, build_optimizer, undecayed_names

CONTEXT, PEAK = 77, 989e12


class Size(NamedTuple):
    """Towers of CLIP: name, pairs a step, image (timm's name, width, layers, patch, pixels), text (width, layers)."""

    name: str
    pairs: int
    image: tuple[str, int, int, int, int]
    text: tuple[int, int]
    embed: int

    def flops(self, caption: float) -> float:
        """Of a training step, with captions of so many tokens."""
        _, width, layers, patch, side = self.image
        places = (side // patch) ** 2 + 1
        image = layers * (24 * places * width**2 + 4 * places**2 * width)
        wide, deep = self.text
        return 3 * self.pairs * (image + deep * (24 * caption * wide**2 + 4 * caption**2 * wide))


SIZES = (
    Size("ViT-B/32", 2048, ("vit_base_patch32_clip_224", 768, 12, 32, 224), (512, 12), 512),
    Size("ViT-B/16", 1024, ("vit_base_patch16_clip_224", 768, 12, 16, 224), (512, 12), 512),
    Size("ViT-L/14", 384, ("vit_large_patch14_clip_224", 1024, 24, 14, 224), (768, 12), 768),
)
TINY = (Size("tiny", 40, ("vit_tiny_patch16_224", 192, 12, 16, 64), (64, 2), 32),)


class Batch(NamedTuple):
    """Pairs in the host's memory."""

    image: Tensor  # uint8 (B, 3, S, S)
    tokens: Tensor  # int64 (B, 77)
    lengths: list[int]

    @classmethod
    def of(cls, size: Size) -> Batch:
        lengths = lengths_like_flickr8k(size.pairs)
        generator = torch.Generator().manual_seed(0)
        side = size.image[-1]
        image = torch.randint(0, 256, (size.pairs, 3, side, side), dtype=torch.uint8, generator=generator)
        tokens = torch.randint(1, 49406, (size.pairs, CONTEXT), generator=generator)
        place = torch.arange(CONTEXT)
        ends = torch.tensor(lengths)[:, None]
        tokens[place >= ends] = 0
        tokens[place == ends - 1] = 49407  # by which open_clip finds the end of text
        pinned = [value.pin_memory() if DEVICE == "cuda" else value for value in (image, tokens)]
        return cls(*pinned, lengths)


def build(
    size: Size, execution: dict[str, Any], dtype: torch.dtype = torch.bfloat16
) -> tuple[ClipModel, Callable[[Batch], Tensor]]:
    """The model, and a training step of it that hands back the loss (), without waiting for the device."""
    torch.manual_seed(0)
    name, _, _, patch, side = size.image
    image = {"name": name, "image_size": side, "patch_size": patch}
    text = {"name": "clip_text", "width": size.text[0], "layers": size.text[1], "heads": size.text[0] // 64}
    with torch.device(DEVICE):
        model = ClipModel(image, text, embed_dim=size.embed)
    prepare(model, ExecutionSettings(**execution))
    optimizer, loss = build_optimizer(model, OptimizerSettings(), undecayed_names(model)), SoftmaxContrastiveLoss()

    def step(batch: Batch) -> Tensor:
        pixels, tokens = (value.to(DEVICE, non_blocking=True) for value in batch[:2])
        mask = tokens > 0
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            output = model(pixels, tokens, mask, batch.lengths)
            found = loss(output.image_features, output.text_features, output.scale)
        return _update(found, optimizer)

    return model, step


def open_clips(compiled: bool, size: Size) -> Callable[[Batch], Tensor]:
    """A training step of open_clip's model under the same precision and optimizer."""
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    torch.manual_seed(0)
    _, width, layers, patch, side = size.image
    vision = {"layers": layers, "width": width, "head_width": 64, "patch_size": patch, "image_size": side}
    wide, deep = size.text
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": wide, "heads": wide // 64, "layers": deep}
    with torch.device(DEVICE):
        model: Any = CLIP(embed_dim=size.embed, vision_cfg=vision, text_cfg=text)
    optimizer, loss = build_optimizer(model, OptimizerSettings(), undecayed_names(model)), ClipLoss()
    run = torch.compile(model) if compiled else model
    mean, std = (torch.tensor(value, device=DEVICE).view(1, 3, 1, 1) for value in _STATISTICS)

    def step(batch: Batch) -> Tensor:
        pixels, tokens = (value.to(DEVICE, non_blocking=True) for value in batch[:2])
        with torch.autocast(DEVICE, torch.bfloat16):
            found = loss(*run((pixels / 255 - mean) / std, tokens)[:3])
        return _update(found, optimizer)

    return step


_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _update(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _here(options: dict[str, Any], size: Size) -> Callable[[Batch], Tensor]:
    return build(size, options)[1]


def _in_chunks(size: Size) -> Callable[[Batch], Tensor]:
    """As where a card has no kernels for captions that are packed."""
    model, step = build(size, {"compile": True})
    model.text_encoder.packs = lambda tokens: False  # type: ignore[method-assign]
    return step


class Timed(NamedTuple):
    """Samples a second, seconds of the first step (which compiles), and GiB at the most."""

    rate: float
    first: float
    memory: float


def timed(step: Callable[[Batch], Tensor], batch: Batch, rounds: int) -> Timed:
    """Medians over steps that follow one another, each with its own upload."""
    start = time.perf_counter()
    float(step(batch))
    first = time.perf_counter() - start
    for _ in range(2):
        float(step(batch))
    if DEVICE == "cpu":
        return Timed(len(batch.lengths) / first, first, 0.0)
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    for mark in marks[:-1]:
        mark.record()
        step(batch)
    marks[-1].record()
    marks[-1].synchronize()
    seconds = statistics.median(one.elapsed_time(two) / 1e3 for one, two in pairwise(marks))
    return Timed(len(batch.lengths) / seconds, first, torch.cuda.max_memory_allocated() / 2**30)


def table(sizes: tuple[Size, ...], until: float, note: Callable[[dict[str, Any]], None]) -> list[str]:
    """Markdown, a line a model and variant, those first that are compared; what there is no time for is absent."""
    lines = ["| model, pairs a step | variant | samples/s | MFU | first step | GiB |", "|---|---|---|---|---|---|"]
    jobs: list[tuple[Size, str, Callable[[Size], Callable[[Batch], Tensor]]]] = []
    if DEVICE == "cuda":
        jobs += [(size, "here, compiled", partial(_here, {"compile": True})) for size in sizes]
    jobs += [(size, "open_clip", partial(open_clips, False)) for size in sizes]
    if DEVICE == "cuda":  # which takes a minute to compile, the models that are larger first
        jobs += [(size, "open_clip, compiled", partial(open_clips, True)) for size in (*sizes[1:], *sizes[:1])]
    jobs += [(size, "here", partial(_here, {"compile": False})) for size in sizes]
    if DEVICE == "cuda":
        jobs.append((sizes[0], "here, compiled, captions in chunks", _in_chunks))
    peers = importlib.util.find_spec("open_clip") is not None
    batches: dict[str, Batch] = {}
    for size, name, make in jobs:
        if time.monotonic() > until or (name.startswith("open_clip") and not peers):
            print(f"no time, or no peer, for {size.name}, {name}", flush=True)
            continue
        batch = batches.get(size.name) or Batch.of(size)
        batches[size.name] = batch
        try:
            found = timed(make(size), batch, 8)
        except RuntimeError as error:  # also what does not fit
            print(f"{size.name}, {name}: {(str(error).splitlines() or ['?'])[0]}", flush=True)
            continue
        finally:
            _clear()
        caption = sum(batch.lengths) / len(batch.lengths)
        share = size.flops(caption) * found.rate / size.pairs / PEAK
        cells = f"{found.rate:,.0f} | {100 * share:.1f} % | {found.first:.1f} s | {found.memory:.1f}"
        lines.append(f"| {size.name}, {size.pairs:,} | {name} | {cells} |")
        note({"model": size.name, "variant": name, "mfu": share, **found._asdict()})
        print(lines[-1], flush=True)
    return lines


def _clear() -> None:
    """Before the next variant: nothing of this one's code or memory is left."""
    torch.compiler.reset()
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
