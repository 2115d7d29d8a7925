"""Time and memory of the losses on a GPU beside open_clip's and siglip-kernel's, forward and backward.

"bf16" features are half precision themselves; "autocast" ones are float32 under bfloat16 autocast, as `bf16-mixed` training
hands them over; "float32" ones are multiplied with float32's precision. open_clip's losses run on bf16 features under autocast.
"ring of one" is the loss in the blocks in which ranks' texts go round, on one rank.
"-" stands for a peer that is not installed and for what does not fit on the card. Run by gpu.py.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.losses import losses, sigmoid_contrastive_loss, softmax_contrastive_loss
from lightning_clip.losses.exchange import Ring

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = ((4096, 512), (16384, 768), (32768, 768), (65536, 768), (131072, 768))
NAMES = ("softmax", "sigmoid")
Step = Callable[[], object]


class Measured(NamedTuple):
    """Milliseconds, and MiB over the inputs."""

    milliseconds: float
    mebibytes: float

    def __str__(self) -> str:
        return f"{self.milliseconds:.2f} ({self.mebibytes:,.0f})"


def inputs(count: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Features of pairs that are somewhat alike, a scale and a bias."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    images, texts = (normalize(torch.randn(count, width, device=DEVICE, generator=generator), dim=-1) for _ in "it")
    values = [images, normalize(texts + 0.3 * images, dim=-1)]
    scalars = [torch.tensor([value], device=DEVICE) for value in (14.3, -10.0)]
    return [value.requires_grad_() for value in (*(value.to(dtype) for value in values), *scalars)]


def ours(name: str, values: list[Tensor], autocast: bool) -> Step:
    loss = losses.build(name)
    return lambda: _step(lambda: loss(*values), values, autocast)


def over_ring(name: str, values: list[Tensor]) -> Tensor:
    """The loss as ranks compute it whose texts go round, for one rank: what is left is the cost of going in blocks."""
    exchange = Ring([len(values[0])], 0)
    if name == "softmax":
        return softmax_contrastive_loss(*values[:3], exchange=exchange)
    return sigmoid_contrastive_loss(*values, exchange=exchange)


def ring(name: str, values: list[Tensor]) -> Step:
    return lambda: _step(lambda: over_ring(name, values), values, False)


def open_clips(name: str, values: list[Tensor]) -> Step:
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "softmax":
        loss = ClipLoss()
        return lambda: _step(lambda: loss(*values[:3]), values, True)
    siglip = SigLipLoss()
    return lambda: _step(lambda: siglip(*values), values, True)


def siglip_kernels(values: list[Tensor]) -> Step:
    from siglip_kernel import fused_siglip_loss

    images, texts, scale, bias = values
    logarithm = scale.detach().log().view(()).requires_grad_()
    offset = bias.detach().view(()).requires_grad_()
    every = [images, texts, logarithm, offset]
    return lambda: _step(lambda: fused_siglip_loss(*every), every, False)


def _step(forward: Callable[[], Tensor], values: list[Tensor], autocast: bool) -> None:
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        loss = forward()
    loss.backward()
    for value in values:
        value.grad = None


def measure(step: Step, rounds: int) -> Measured | None:
    """None where it does not fit on the device."""
    if DEVICE == "cpu":
        step()
        started = time.perf_counter()
        step()
        return Measured(1e3 * (time.perf_counter() - started), 0.0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    try:
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        grown = torch.cuda.max_memory_allocated() - before
        times = [_timed(step) for _ in range(rounds)]
    except torch.OutOfMemoryError:
        times = []
    torch.cuda.empty_cache()
    return Measured(statistics.median(times), grown / 2**20) if times else None


def _timed(step: Step) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def table(sizes: tuple[tuple[int, int], ...], until: float, note: Callable[[dict[str, Any]], None]) -> list[str]:
    """Markdown, a line a loss and size; sizes for which there is no time are left out."""
    siglip_kernel = DEVICE == "cuda" and importlib.util.find_spec("siglip_kernel") is not None
    open_clip = importlib.util.find_spec("open_clip") is not None
    lines = [
        "| loss, pairs x width | open_clip | siglip-kernel | bf16 | ring of one | autocast | float32 "
        "| open_clip, siglip-kernel / bf16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count, width in sizes:
        rounds = 20 if count <= 16384 else 7
        for name in NAMES:
            if time.monotonic() > until:
                print(f"no time is left for {name} of {count:,} pairs")
                continue
            half, full = inputs(count, width, torch.bfloat16), inputs(count, width, torch.float32)
            found = {
                "bf16": measure(ours(name, half, False), rounds),
                "ring": measure(ring(name, half), rounds),
                "autocast": measure(ours(name, full, True), rounds),
                "float32": measure(ours(name, full, False), 3) if count < 131072 else None,
                "open_clip": measure(open_clips(name, half), rounds) if open_clip else None,
            }
            if siglip_kernel and name == "sigmoid":
                found["siglip-kernel"] = measure(siglip_kernels(half), rounds)
            lines.append(_line(f"{name}, {count:,} x {width}", found))
            note(
                {
                    "loss": name,
                    "pairs": count,
                    "width": width,
                    **{key: value and value._asdict() for key, value in found.items()},
                }
            )
            print(lines[-1], flush=True)
    return lines


def _line(what: str, found: dict[str, Measured | None]) -> str:
    own = found["bf16"]
    ratios = [
        f"{peer.milliseconds / own.milliseconds:.2f}x" if own and (peer := found.get(key)) else "-"
        for key in ("open_clip", "siglip-kernel")
    ]
    cells = [str(found.get(key) or "-") for key in ("open_clip", "siglip-kernel", "bf16", "ring", "autocast", "float32")]
    return f"| {what} | {' | '.join(cells)} | {', '.join(ratios)} |"
