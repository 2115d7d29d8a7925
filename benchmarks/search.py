"""An index of 1,000,000 vectors of width 512: recall of the graph against exact search, query time on one core, files.

The vectors are made: the variance of direction i falls as 1 / i to the 10th and as 1 / i^1.5 from there, an effective rank of
13 with a tail in all directions. Features of real pictures have few strong directions, too, and fall faster:
`--spectrum photos.index` shows those of an index. Where all 512 are equally likely every point is about as far from any other,
and no graph finds its way.

    python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_bytes
from report import Row, machine, write_section

from lightning_clip.applications.search import SearchIndex
from lightning_clip.applications.search.stores.files import Vectors

_CHUNK = 1 << 16


def variances(dim: int) -> np.ndarray:
    """Of the directions of made vectors, float64 (dim,): 1 / i to the 10th, 10^0.5 / i^1.5 from there."""
    place = np.arange(1, dim + 1)
    return np.where(place <= 10, 1 / place, 10**0.5 / place**1.5)


def made(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit rows, float16 (count, dim)."""
    turned, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(dim, dim)))
    spread = np.sqrt(variances(dim)).astype(np.float32)
    rows = (np.random.default_rng(seed).standard_normal((count, dim), np.float32) * spread) @ turned.T.astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def spectrum(path: str, most: int = 4000) -> str:
    """A line about the vectors of an index: effective rank, and how fast the variances of directions fall."""
    index = SearchIndex(path)
    count = index.vectors.count
    features = torch.from_numpy(index.vectors.rows(np.linspace(0, count - 1, min(count, most)).astype(int))).double()
    found = torch.linalg.eigvalsh(torch.cov(features.T)).flip(0).clamp(min=1e-12)
    falls = [float((found[first - 1] / found[last - 1]).log() / math.log(last / first)) for first, last in ((1, 10), (10, 100))]
    return (
        f"{len(features):,} vectors of width {features.shape[1]}: effective rank {effective_rank(found):.1f}; variances "
        f"fall as 1 / i^{falls[0]:.1f} from the 1st direction to the 10th, as 1 / i^{falls[1]:.1f} from there to the 100th"
    )


def effective_rank(found: torch.Tensor) -> float:
    """(sum v)^2 / sum v^2 of variances (D,): D where all are alike."""
    return float(found.sum().square() / found.square().sum())


def queried(folder: Path, dim: int, count: int, queries: int, candidates: int | None) -> None:
    """In a process of its own: time to open, median of a query, recall of the first 10, and by how much memory grew."""
    torch.set_num_threads(1)
    asked = made(queries, dim, seed=1 << 20).astype(np.float32)
    times: list[float] = []
    walls: list[float] = []
    found: list[set[int]] = []
    opened: list[float] = []
    together: list[float] = []

    def work() -> None:
        begun: Any = time.perf_counter()
        vectors = Vectors(folder, dim, count)
        if candidates is not None:
            vectors.graph.expansion_search = candidates
        vectors.nearest(asked[0], 10)
        opened.append(time.perf_counter() - begun)
        for query in asked:
            begun = time.perf_counter(), time.process_time()
            found.append(set(vectors.nearest(query, 10)[0].tolist()))
            walls.append(time.perf_counter() - begun[0])
            times.append(time.process_time() - begun[1])
        begun = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(50) as pool:
            same = list(pool.map(lambda query: set(vectors.nearest(query, 10)[0].tolist()), asked[:50]))
        together.extend((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        assert same == found[:50]

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
    print(opened[0], 1000 * statistics.median(times), 1000 * statistics.median(walls), recall, peak, *together)


class Timed(Vectors):
    """Writes down what building the graph took, after each stage, so that a build that was stopped goes on with its time."""

    note: Path
    before: tuple[float, float]
    begun: tuple[float, float]

    def timed(self, note: Path, settings: dict[str, int]) -> tuple[float, float]:
        """Seconds and CPU seconds, over all runs."""
        self.note, self.before = note, tuple(json.loads(note.read_text()))
        self.begun = time.perf_counter(), time.process_time()
        self.grow_graph(**settings)
        seconds, computed = json.loads(note.read_text())
        return seconds, computed

    def _commit(self, index: Any, count: int, rest: np.ndarray) -> None:
        super()._commit(index, count, rest)
        now = time.perf_counter(), time.process_time()
        self.note.write_text(
            json.dumps([old + end - start for old, end, start in zip(self.before, now, self.begun, strict=True)])
        )
        print(f"{count:,} rows in the graph", flush=True)


def built(folder: Path, count: int, dim: int, settings: dict[str, int]) -> tuple[float, float]:
    """Builds the index in a folder, or goes on with it; what its graph took."""
    note = folder / "seconds.json"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = Timed(folder, dim, count if note.exists() else 0, write=True)
    if not note.exists():
        for number, start in enumerate(range(0, count, _CHUNK)):
            vectors.append(made(min(_CHUNK, count - start), dim, seed=number))
        note.write_text("[0, 0]")
    return vectors.timed(note, settings)


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--expansion", type=int, help="candidates for each new row of the graph (default: the package's)")
    parser.add_argument("--candidates", type=int, help="for each query (default: the package's)")
    parser.add_argument("--spectrum", metavar="INDEX", help="of the vectors of an index, nothing else")
    parser.add_argument("--keep", type=Path, help="folder in which the index is built, and taken from if it is there")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        queried(Path(arguments.folder), arguments.dim, arguments.vectors, arguments.queries, arguments.candidates)
        return
    if arguments.spectrum:
        print(spectrum(arguments.spectrum))
        return
    settings = {"expansion": arguments.expansion} if arguments.expansion else {}
    chosen = {name: getattr(arguments, name) for name in ("expansion", "candidates") if getattr(arguments, name)}
    with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as name:
        took = built(Path(name), arguments.vectors, arguments.dim, settings)
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        own = [sys.executable, __file__, "--folder", name, "--vectors", str(arguments.vectors), "--dim", str(arguments.dim)]
        own += ["--candidates", str(arguments.candidates)] if arguments.candidates else []
        done = subprocess.run([*own, "--queries", str(arguments.queries)], capture_output=True, text=True, check=True)
        opened, query, wall, recall, peak, together, computed = map(float, done.stdout.split())
    rows = [
        Row("recall of the first 10 against exact search", ">= 0.99", f"{recall:.4f}", ""),
        Row("a query on one core, CPU ms", "< 10", f"{query:.2f}", ""),
        Row("the same by the clock, ms", "", f"{wall:.2f}", ""),
        Row("50 queries at once, s (CPU s)", "", f"{together:.2f} ({computed:.2f})", ""),
        Row("opening and the first query, s", "< 1", f"{opened:.2f}", ""),
        Row("building the graph on two cores, s (CPU s)", "", f"{took[0]:,.0f} ({took[1]:,.0f})", ""),
        Row("files, GB", "<= 1.25", f"{size / 1e9:.3f}", ""),
        Row("growth of the process that searches, pages of the file among it, MiB", "", f"{peak / 2**20:,.0f}", ""),
    ]
    title = f"Search: {arguments.vectors:,} vectors, d = {arguments.dim}, {arguments.queries} queries"
    write_section(
        "search",
        title,
        machine(2, 1),
        rows,
        ("aim", "lightning_clip"),
        " ".join(f"--{name} {value}" for name, value in chosen.items()),
    )


if __name__ == "__main__":
    main()
