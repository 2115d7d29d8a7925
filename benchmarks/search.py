"""An index of 1,000,000 vectors of width 512: recall of the graph against exact search, query time on one core, files.

The vectors are made: the variance of direction i falls as 1 / i, an effective rank of 28 with a long tail, as the features of
real models have few strong directions. Where all 512 are equally likely every point is about as far from every other, and no
graph reaches such a recall.

    python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from memory import peak_bytes
from report import Row, machine, write_section

from lightning_clip.applications.search.vectors import Vectors

_CHUNK = 1 << 16


def made(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit rows, float16 (count, dim)."""
    turned, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(dim, dim)))
    spread = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    rows = (np.random.default_rng(seed).standard_normal((count, dim), np.float32) * spread) @ turned.T.astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def queried(folder: Path, dim: int, count: int, queries: int) -> None:
    """In a process of its own: time to open, median of a query, recall of the first 10, and by how much memory grew."""
    torch.set_num_threads(1)
    asked = made(queries, dim, seed=1 << 20).astype(np.float32)
    times: list[float] = []
    found: list[set[int]] = []
    opened: list[float] = []

    def work() -> None:
        begun = time.perf_counter()
        vectors = Vectors(folder, dim, count)
        vectors.nearest(asked[0], 10)
        opened.append(time.perf_counter() - begun)
        for query in asked:
            begun = time.process_time()
            found.append(set(vectors.nearest(query, 10)[0].tolist()))
            times.append(time.process_time() - begun)

    peak = peak_bytes(work)
    scores = np.full((queries, 10), -2.0, np.float32)
    places = np.full((queries, 10), -1)
    for number, start in enumerate(range(0, count, _CHUNK)):  # exact, from vectors that are made again
        rows = made(min(_CHUNK, count - start), dim, seed=number).astype(np.float32)
        products = np.concatenate([scores, asked @ rows.T], axis=1)
        known = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(rows)), (queries, len(rows)))], axis=1)
        best = np.argpartition(-products, 10, axis=1)[:, :10]
        scores, places = np.take_along_axis(products, best, 1), np.take_along_axis(known, best, 1)
    recall = statistics.mean(len(mine & set(theirs)) / 10 for mine, theirs in zip(found, places.tolist(), strict=True))
    print(opened[0], 1000 * statistics.median(times), recall, peak)


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        queried(Path(arguments.folder), arguments.dim, arguments.vectors, arguments.queries)
        return
    with tempfile.TemporaryDirectory() as name:
        vectors = Vectors(Path(name), arguments.dim, 0, write=True)
        for number, start in enumerate(range(0, arguments.vectors, _CHUNK)):
            vectors.append(made(min(_CHUNK, arguments.vectors - start), arguments.dim, seed=number))
        begun = time.perf_counter(), time.process_time()
        vectors.grow_graph()
        took = time.perf_counter() - begun[0], time.process_time() - begun[1]
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        own = [sys.executable, __file__, "--folder", name, "--vectors", str(arguments.vectors), "--dim", str(arguments.dim)]
        done = subprocess.run([*own, "--queries", str(arguments.queries)], capture_output=True, text=True, check=True)
        opened, query, recall, peak = map(float, done.stdout.split())
    rows = [
        Row("recall of the first 10 against exact search", ">= 0.99", f"{recall:.4f}", ""),
        Row("a query on one core, CPU ms", "< 10", f"{query:.2f}", ""),
        Row("opening and the first query, s", "< 1", f"{opened:.2f}", ""),
        Row("building the graph on two cores, s (CPU s)", "", f"{took[0]:,.0f} ({took[1]:,.0f})", ""),
        Row("files, GB", "<= 1.25", f"{size / 1e9:.3f}", ""),
        Row("growth of the process that searches, pages of the file among it, MiB", "", f"{peak / 2**20:,.0f}", ""),
    ]
    title = f"Search: {arguments.vectors:,} vectors, d = {arguments.dim}, {arguments.queries} queries"
    write_section("search", title, machine(2, 1), rows, ("aim", "lightning_clip"))


if __name__ == "__main__":
    main()
