"""Retrieval of 25,000 images and 125,000 captions, d = 512: exact ranks from tiles beside the dense matrix of scores.

The dense side holds the whole N x M matrix in float32 and ranks its rows and its columns with comparisons, in one pass each,
the fastest way that it was found to go (sorting takes several times as long). Taking turns in one process, two threads; the
ranks are compared; peak memory is that over the features.

    python benchmarks/retrieval.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from memory import peak_bytes
from report import Row, machine, write_section
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.metrics.ranking import both_ranks

ROWS = 256  # of the matrix compared at a time


def features(images: int, captions: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Captions near their images: about a tenth are found at rank 1."""
    generator = torch.Generator().manual_seed(0)
    pictures = normalize(torch.randn(images, dim, generator=generator), dim=1)
    owner = torch.arange(captions) % images
    texts = normalize(pictures[owner] + 6.0 * normalize(torch.randn(captions, dim, generator=generator), dim=1), dim=1)
    return pictures, texts, owner


def dense_ranks(images: Tensor, texts: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of each caption's image, and of each image's best caption, from the matrix of all scores."""
    scores = images @ texts.T
    columns = torch.arange(len(texts))
    own = scores[owner, columns].clone()
    best = torch.full((len(images),), -torch.inf).scatter_reduce(0, owner, own, "amax")
    scores[owner, columns] = -torch.inf
    ahead_text = torch.zeros(len(texts), dtype=torch.int64)
    ahead_image = torch.empty(len(images), dtype=torch.int64)
    for top in range(0, len(images), ROWS):
        rows = scores[top : top + ROWS]
        ahead_text += (rows >= own).sum(dim=0)
        ahead_image[top : top + ROWS] = (rows >= best[top : top + ROWS, None]).sum(dim=1)
    return 1 + ahead_text, 1 + ahead_image


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--captions", type=int, default=125_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    small = features(500, 2500, arguments.dim)
    dense_ranks(*small), both_ranks(*small, each_caption=False)
    images, texts, owner = features(arguments.images, arguments.captions, arguments.dim)
    times: dict[str, list[float]] = {"dense": [], "tiles": []}
    peaks: dict[str, int] = {}
    differing = 0

    found: dict[str, tuple[Tensor, Tensor]] = {}

    def timed(side: str) -> None:
        start = time.perf_counter()
        if side == "dense":
            found[side] = dense_ranks(images, texts, owner)
        else:
            ranks = both_ranks(images, texts, owner, each_caption=False)
            found[side] = ranks.text_to_image, ranks.image_to_text
        times[side].append(time.perf_counter() - start)

    for number in range(arguments.rounds):
        for side in times:
            peaks[side] = max(peaks.get(side, 0), peak_bytes(partial(timed, side)))
        differing = max(differing, *(int((a != b).sum()) for a, b in zip(found["dense"], found["tiles"], strict=True)))
        print(f"round {number + 1}: {times['dense'][-1]:.1f} s and {times['tiles'][-1]:.1f} s, {differing} ranks differ")
    slow, fast = (statistics.median(times[side]) for side in ("dense", "tiles"))
    mib = {side: peak / 2**20 for side, peak in peaks.items()}
    rows = [
        Row("seconds, both directions", f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.2f}x"),
        Row("peak memory over the features, MiB", f"{mib['dense']:,.0f}", f"{mib['tiles']:,.0f}",
            f"{mib['dense'] / mib['tiles']:.0f}x"),
        Row(f"ranks that differ of {arguments.images + arguments.captions:,}, scores of the dense side being rounded", "",
            f"{differing}", ""),
    ]  # fmt: skip
    title = f"Retrieval: {arguments.images:,} images, {arguments.captions:,} captions, d = {arguments.dim}"
    write_section("retrieval", title, machine(2, arguments.rounds), rows, ("dense matrix", "lightning_clip"))


if __name__ == "__main__":
    main()
