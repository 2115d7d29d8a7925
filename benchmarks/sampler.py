"""Samplers on one of 1,024 ranks, by the processor's time a sample: ours, and torch's `DistributedSampler`.

Torch's draws a permutation of all samples on every rank. Ours computes a rank's own places; a mixture of sources counts,
once an epoch, how often each source was used before each place, which takes time with all places, named apart.

    python benchmarks/sampler.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice

import numpy as np
from report import Row, machine, write_section
from torch.utils.data import DistributedSampler

from lightning_clip.data import sampler as module
from lightning_clip.data.mixing_order import Mixture, Phase
from lightning_clip.data.order import Order, Shuffled, Windowed
from lightning_clip.data.sampler import PairSampler

RANKS = 1024
THEIRS = 4_000_000  # samples of torch's: its time a sample does not depend on them


def sampler_of(order: Order) -> PairSampler:
    """Ours, from the start of an epoch on, in batches of 256."""
    found = PairSampler(order, batch_size=256, batches_done=lambda: 0)
    found.endless = True
    return found


def each(count: int, sampler: PairSampler) -> float:
    """Microseconds a sample."""
    start = time.process_time()
    drawn = sum(1 for _ in islice(sampler, count))
    return (time.process_time() - start) / drawn * 1e6


def torchs() -> float:
    """Microseconds a sample of a whole epoch, which torch draws before the first."""
    start = time.process_time()
    drawn = sum(1 for _ in DistributedSampler(range(THEIRS), RANKS, 5))  # type: ignore[arg-type]
    return (time.process_time() - start) / drawn * 1e6


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--places", type=int, default=80_000_000, help="of the mixture's epoch")
    arguments = parser.parse_args()
    module.world = lambda: (5, RANKS)
    theirs = statistics.median(torchs() for _ in range(arguments.rounds))
    half = arguments.places // 2
    mixture = Mixture([Shuffled(half, 0), Shuffled(half // 3, 1)], [Phase(0, (1.0, 1.0))], arguments.places, 0)
    orders: dict[str, Order] = {
        "shuffled, 400 million samples": Shuffled(400_000_000, 0),
        "40,000 shards of 10,000 samples in windows of 64": Windowed([10_000] * 40_000, 64, 0),
        f"two sources by weight, {arguments.places:,} places": mixture,
    }
    rows = []
    for name, order in orders.items():
        count = arguments.places // RANKS // 2  # within an epoch of the mixture
        sampler = sampler_of(order)
        start = time.process_time()
        order.at(0, np.zeros(1, dtype=np.int64))  # what is drawn once an epoch
        drawing = time.process_time() - start
        own = statistics.median(each(count, sampler) for _ in range(arguments.rounds))
        rows.append(Row(f"{name}, us a sample", f"{theirs:.0f}", f"{own:.2f}", f"{theirs / own:.0f}x"))
    rows.append(
        Row(f"the same, once an epoch, s (ns a place: {drawing / arguments.places * 1e9:.0f})", "", f"{drawing:.1f}", "")
    )
    write_section("sampler", "Sampler on one of 1,024 ranks", machine(1, arguments.rounds), rows, ("torch", "lightning_clip"))


if __name__ == "__main__":
    main()
