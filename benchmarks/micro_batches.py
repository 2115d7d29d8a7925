"""A batch of 512 pairs in slices of 16 beside the whole batch at once: peak memory and time of forward and backward.

Float32, one thread; ViT (6 blocks) and text Transformer (3 blocks) of width 192 on 64 px images and captions of
Flickr8k's lengths.
Memory is the growth of the process' peak resident set, each in a process of its own; times are
the processor's, interleaved in one process. Then the look-ups of tokens alone: a gradient of the whole table in each slice
beside one a batch.

    python benchmarks/micro_batches.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from captions import lengths_like_flickr8k
from memory import peak_bytes
from report import Row, machine, write_section
from torch import Tensor, nn

from lightning_clip import ClipModule, PairBatch
from lightning_clip.encoders.lookups import OneGradient
from lightning_clip.training.micro_batches import encode_in_slices

SIZE, WIDTH = 64, 192


def module() -> ClipModule:
    image = {"name": "vit_tiny_patch16_224", "image_size": SIZE, "patch_size": 8, "depth": 6}
    text = {"name": "clip_text", "width": WIDTH, "layers": 3, "heads": 3}
    built = ClipModule(image, text, embed_dim=WIDTH)
    built.configure_model()
    return built


def pairs(count: int) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    lengths = lengths_like_flickr8k(count)
    mask = torch.arange(77) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(1, 49000, mask.shape, generator=generator) * mask
    image = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    names = [str(number) for number in range(count)]
    index = torch.arange(count)
    return PairBatch(image, tokens, mask, index, index, [(name,) for name in names], names, [], lengths)


def step(model: ClipModule, batch: PairBatch, micro: int) -> None:
    output = encode_in_slices(model.encode, batch, micro, model.model)
    model.compute_loss(output, batch)["loss"].backward()


def looked_up(table: nn.Embedding, parts: list[Tensor], once: bool) -> None:
    """Look-ups of all slices, forward and backward."""
    tables = OneGradient(table if once else nn.Module())
    total = table.weight.new_zeros(())
    for ids in parts:
        with tables.in_use():
            total = total + table(ids).square().sum()
    total.backward()


def seconds_of_lookups(count: int, micro: int, rounds: int) -> dict[bool, float]:
    batch, table = pairs(count), nn.Embedding(49408, WIDTH)
    parts = [row[mask] for row, mask in zip(batch.tokens.split(micro), batch.mask.split(micro), strict=True)]  # type: ignore[union-attr]
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * rounds + 1):
        for once, times in found.items():
            start = time.process_time()
            looked_up(table, parts, once)
            if number:
                times.append(time.process_time() - start)
    return {once: statistics.median(times) for once, times in found.items()}


def measured_alone(count: int, micro: int) -> int:
    command = [sys.executable, __file__, "--child", str(count), str(micro)]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def child(count: int, micro: int) -> None:
    model, batch = module(), pairs(count)
    step(model, pairs(32), 16)  # gradients exist afterwards: they are no part of what slices save
    print(json.dumps(peak_bytes(lambda: step(model, batch, micro))))


def seconds(count: int, micros: list[int], rounds: int) -> dict[int, float]:
    model, batch = module(), pairs(count)
    found: dict[int, list[float]] = {micro: [] for micro in micros}
    for number in range(rounds + 1):
        for micro in micros:
            start = time.process_time()
            step(model, batch, micro)
            if number:
                found[micro].append(time.process_time() - start)
    return {micro: statistics.median(times) for micro, times in found.items()}


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        child(*arguments.child)
        return
    whole, micro = arguments.batch, arguments.micro
    times = seconds(whole, [whole, micro], arguments.rounds)
    memory = {size: measured_alone(whole, size) for size in (whole, micro)}
    row = Row(
        f"{micro} of {whole}",
        f"{times[whole]:.2f} s, {memory[whole] / 2**20:,.0f} MiB",
        f"{times[micro]:.2f} s, {memory[micro] / 2**20:,.0f} MiB",
        f"1/{memory[whole] / memory[micro]:.1f} of the memory, {times[micro] / times[whole]:.2f}x the time",
    )
    lookups = seconds_of_lookups(whole, micro, arguments.rounds)
    tokens = Row(
        f"look-ups of tokens in {whole // micro} slices, a gradient each and one a batch",
        f"{1e3 * lookups[False]:.0f} ms",
        f"{1e3 * lookups[True]:.0f} ms",
        f"{lookups[False] / lookups[True]:.1f}x faster",
    )
    title = "Micro-batches, forward and backward, float32"
    write_section("micro_batches", title, machine(1, arguments.rounds), [row, tokens], heads=("the batch at once", "in slices"))


if __name__ == "__main__":
    main()
