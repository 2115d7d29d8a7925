"""The losses beside open_clip's: time of forward and backward interleaved in one process, peak memory in one process each.

Float32, d = 512, one thread. "tiled" cuts the matrix of logits into tiles, "automatic" keeps a small one whole.
Memory is the growth of the process' peak resident set over the inputs, after a small warm-up.

    python benchmarks/losses.py                      # 4,096 and 16,384 pairs
    python benchmarks/losses.py --large              # 65,536 pairs, ours alone, one step each; takes minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from memory import peak_bytes
from report import Row, machine, write_section
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.losses import losses

WIDTH = 512
TILES = {"tiled": 1024, "automatic": None}
# The sigmoid loss has one form: its tiles are computed once, so that keeping the matrix would gain nothing.
FORMS = {"softmax": ("tiled", "automatic"), "sigmoid": ("tiled",)}


def ours(name: str, form: str) -> Callable[..., Tensor]:
    return losses.build({"name": name, "tile_size": TILES[form]})


def theirs(name: str) -> Callable[..., Tensor]:
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "sigmoid":
        return SigLipLoss()
    loss = ClipLoss()
    return lambda images, texts, scale, bias: loss(images, texts, scale)


def inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = [normalize(torch.randn(count, WIDTH, generator=generator), dim=-1) for _ in range(2)]
    return [value.requires_grad_() for value in (*features, torch.tensor([14.3]), torch.tensor([-10.0]))]


def step(loss: Callable[..., Tensor], values: list[Tensor]) -> None:
    loss(*values).backward()
    for value in values:
        value.grad = None


def seconds(name: str, count: int, rounds: int) -> dict[str, float]:
    """Medians, with the contenders taking turns."""
    contenders = {"open_clip": theirs(name), **{form: ours(name, form) for form in FORMS[name]}}
    values = inputs(count)
    found: dict[str, list[float]] = {key: [] for key in contenders}
    for number in range(rounds + 1):
        for key, loss in contenders.items():
            start = time.perf_counter()
            step(loss, values)
            if number:  # the first round warms up
                found[key].append(time.perf_counter() - start)
    return {key: statistics.median(times) for key, times in found.items()}


def measured_alone(name: str, contender: str, count: int) -> tuple[int, float]:
    """Peak memory over the inputs, and the seconds of one step, in a process of its own."""
    command = [sys.executable, __file__, "--child", name, contender, str(count)]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return int(answer["bytes"]), float(answer["seconds"])


def child(name: str, contender: str, count: int) -> None:
    loss = theirs(name) if contender == "open_clip" else ours(name, contender)
    step(loss, inputs(64))
    values = inputs(count)
    start = time.perf_counter()
    grown = peak_bytes(lambda: step(loss, values))
    print(json.dumps({"bytes": grown, "seconds": time.perf_counter() - start}))


def compare(name: str, count: int, rounds: int) -> list[Row]:
    times = seconds(name, count, rounds)
    memory = {key: measured_alone(name, key, count)[0] for key in ("open_clip", *FORMS[name])}
    rows = []
    for form in FORMS[name]:
        faster, smaller = times["open_clip"] / times[form], memory["open_clip"] / memory[form]
        rows.append(
            Row(
                f"{name}, {count:,} pairs, {form}",
                f"{times['open_clip']:.2f} s, {memory['open_clip'] / 2**20:,.0f} MiB",
                f"{times[form]:.2f} s, {memory[form] / 2**20:,.0f} MiB",
                f"{faster:.2f}x faster, 1/{smaller:.1f} of the memory",
            )
        )
    return rows


def large(name: str) -> Row:
    memory, spent = measured_alone(name, "automatic", 65536)
    return Row(f"{name}, 65,536 pairs", "not run", f"{spent:.0f} s, {memory / 2**20:,.0f} MiB", "-")


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="65,536 pairs instead, ours alone")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        child(arguments.child[0], arguments.child[1], int(arguments.child[2]))
        return
    title = f"Losses, forward and backward, d = {WIDTH}, float32"
    if arguments.large:
        rows = [large(name) for name in FORMS]
        write_section("losses", f"{title}: 65,536 pairs", machine(1, 1), rows, options="--large")
        return
    pairs = [(name, count) for count in arguments.pairs for name in FORMS]
    rows = [row for name, count in pairs for row in compare(name, count, arguments.rounds)]
    write_section("losses", title, machine(threads=1, rounds=arguments.rounds), rows)


if __name__ == "__main__":
    main()
