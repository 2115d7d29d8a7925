"""The losses on a GPU: first that they are right, then time and memory beside open_clip's and siglip-kernel's.

    python benchmarks/gpu.py --minutes 6       # writes its section of docs/benchmarks.md, and $OUT/gpu.md where OUT is set
    python benchmarks/gpu.py --dry             # tiny sizes on whatever there is; prints only

Forward and backward of the loss alone; times are medians, memory is the peak over the inputs. "bf16" features are half
precision themselves; "autocast" ones are float32 under bfloat16 autocast, as `bf16-mixed` training hands them over; "float32"
ones are multiplied with float32's precision. open_clip's losses run on bf16 features under autocast. "-" stands for a peer that
is not installed and for what does not fit on the card.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from report import put_section
from torch import Tensor
from torch.nn.functional import normalize, softplus

from lightning_clip.losses import losses

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


def table(sizes: tuple[tuple[int, int], ...], until: float) -> list[str]:
    """Markdown, a line a loss and size; sizes for which there is no time are left out."""
    siglip_kernel = DEVICE == "cuda" and importlib.util.find_spec("siglip_kernel") is not None
    open_clip = importlib.util.find_spec("open_clip") is not None
    lines = [
        "| loss, pairs x width | open_clip | siglip-kernel | bf16 | autocast | float32 | open_clip, siglip-kernel / bf16 |",
        "|---|---|---|---|---|---|---|",
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
                "autocast": measure(ours(name, full, True), rounds),
                "float32": measure(ours(name, full, False), min(rounds, 5)),
                "open_clip": measure(open_clips(name, half), rounds) if open_clip else None,
            }
            if siglip_kernel and name == "sigmoid":
                found["siglip-kernel"] = measure(siglip_kernels(half), rounds)
            lines.append(_line(f"{name}, {count:,} x {width}", found))
            print(lines[-1], flush=True)
    return lines


def _line(what: str, found: dict[str, Measured | None]) -> str:
    own = found["bf16"]
    ratios = [
        f"{peer.milliseconds / own.milliseconds:.2f}x" if own and (peer := found.get(key)) else "-"
        for key in ("open_clip", "siglip-kernel")
    ]
    cells = [str(found.get(key) or "-") for key in ("open_clip", "siglip-kernel", "bf16", "autocast", "float32")]
    return f"| {what} | {' | '.join(cells)} | {', '.join(ratios)} |"


def checks(count: int) -> list[tuple[str, float, float]]:
    """What was checked, its figure and its limit."""
    found = []
    for name in NAMES:
        for dtype, limit in ((torch.float32, 5e-6), (torch.float16, 2e-3), (torch.bfloat16, 8e-3)):
            loss_error, error = _errors(name, inputs(count, 256, dtype))
            found.append((f"{name}, {str(dtype)[6:]}, {count:,} pairs: loss against float64", loss_error, 2e-6))
            found.append((f"{name}, {str(dtype)[6:]}, {count:,} pairs: gradients against float64", error, limit))
        if DEVICE == "cuda":
            found.append((f"{name}: waits for the device in forward and backward", _waits(name, count), 0.0))
            found.append((f"{name}: a captured graph against the plain step", _captured(name, count), 0.0))
    return found


def _errors(name: str, values: list[Tensor]) -> tuple[float, float]:
    """Relative error of the loss, and the largest of the gradients of both features and the scale."""
    loss = losses.build(name)(*values)
    loss.backward()
    images, texts, scale, bias = (value.detach().double().requires_grad_() for value in values)
    logits = scale * images @ texts.T
    diagonal = torch.eye(len(images), dtype=torch.bool, device=DEVICE)
    if name == "softmax":
        others, pair = logits.masked_fill(diagonal, -torch.inf), logits.diagonal()
        expected = 0.5 * sum(softplus(others.logsumexp(dim=axis) - pair, threshold=100) for axis in (0, 1)).mean()  # type: ignore[union-attr]
    else:
        expected = softplus(torch.where(diagonal, -1, 1) * (logits + bias), threshold=100).sum() / len(images)
    expected.backward()
    pairs = zip(values[:3], (images, texts, scale), strict=True)
    worst = max(float((one.grad.double() - other.grad).norm() / other.grad.norm()) for one, other in pairs)  # type: ignore[union-attr]
    return float(((loss - expected) / expected).abs().detach()), worst


def _waits(name: str, count: int) -> float:
    """0 where nothing in a step waits for the device."""
    step = ours(name, inputs(count, 256, torch.float32), True)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        print(error)
        return 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


def _captured(name: str, count: int) -> float:
    """The largest difference of a gradient between a replayed CUDA graph and the step as it is."""
    values, loss, graph = inputs(count, 256, torch.bfloat16), losses.build(name), torch.cuda.CUDAGraph()
    plain = torch.autograd.grad(loss(*values), values[:3])
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(loss(*values), values[:3])
    graph.replay()
    return max(float((one.float() - other.float()).abs().max()) for one, other in zip(plain, captured, strict=True))


def main() -> int:
    """Runs, prints, writes; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="no size is begun after this time")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, nothing is written")
    arguments = parser.parse_args()
    if DEVICE == "cpu" and not arguments.dry:
        print("gpu.py: there is no GPU here; --dry runs tiny sizes on the CPU")
        return 0
    until = time.monotonic() + 60 * arguments.minutes
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    found = checks(96 if arguments.dry else 4480)
    for what, figure, limit in found:
        print(f"{'ok' if figure <= limit else 'FAILED':6} {what}: {figure:.1e} (at most {limit:.0e})", flush=True)
    failed = any(not figure <= limit or math.isnan(figure) for _, figure, limit in found)
    lines = [f"## Losses on one {card}, forward and backward: ms (MiB over the inputs)", ""]
    lines += [f"`python benchmarks/gpu.py`: {card}; torch {torch.__version__}; medians. All {len(found)} checks passed.", ""]
    lines += table(((64, 32),) if arguments.dry else SIZES, until)
    section = "\n".join(lines)
    if failed:
        print("a check failed: nothing is written")
    elif arguments.dry:
        print(section)
    else:
        put_section("gpu", section)
        if os.environ.get("OUT"):
            (Path(os.environ["OUT"]) / "gpu.md").write_text(section)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
