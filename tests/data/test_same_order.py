"""The order of samples, computed in blocks, against plain loops: a run that goes on must find it unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import orders as reference

from lightning_clip.data import permutation, sampler
from lightning_clip.data.mixing_order import Mixture, Phase
from lightning_clip.data.order import Order, Shuffled, Windowed
from lightning_clip.data.permutation import all_permuted, permuted, permuted_each
from lightning_clip.data.sampler import PairSampler, Visit, visit_seed

SEEDS, SORTED = st.integers(0, 2**40), st.sampled_from([1, 8, 1 << 14])  # up to which length hashes are sorted
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    known = permutation._SORTED, permutation._AT_ONCE
    yield
    permutation._SORTED, permutation._AT_ONCE = known


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 300), key=SEEDS, short=SORTED, at_once=st.sampled_from([7, 1 << 16]))
def test_permutations(length: int, key: int, short: int, at_once: int) -> None:
    permutation._SORTED, permutation._AT_ONCE = short, at_once
    expected = [reference.permuted(place, length, key, short) for place in range(length)]
    assert (
        permuted(np.arange(length), length, key).tolist() == expected == np.concatenate([*all_permuted(length, key)]).tolist()
    )


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=SEEDS, short=SORTED)
def test_several_permutations(lengths: list[int], seed: int, short: int) -> None:
    permutation._SORTED = short
    keys = [seed + number for number in range(len(lengths))]
    places = np.concatenate([np.arange(length) for length in lengths])
    found = permuted_each(places, np.array(lengths), keys, np.repeat(np.arange(len(lengths)), lengths))
    assert found.tolist() == [
        reference.permuted(place, length, key, short)
        for length, key in zip(lengths, keys, strict=True)
        for place in range(length)
    ]


def test_a_long_permutation() -> None:
    """Of numbers beyond 32 bits, and all of a shorter one."""
    length = 3 << 33
    places = np.array([0, 1, 12345678901, length - 1])
    assert permuted(places, length, 7).tolist() == [reference.permuted(int(place), length, 7, 1 << 14) for place in places]
    every = np.concatenate([*all_permuted(70_001, 3)])
    assert np.array_equal(every, permuted(np.arange(70_001), 70_001, 3)) and len(set(every.tolist())) == 70_001


@settings(max_examples=60, deadline=None)
@given(counts=LENGTHS, window=st.integers(1, 6), seed=SEEDS, epochs=st.permutations(range(3)), short=SORTED)
def test_windows(counts: list[int], window: int, seed: int, epochs: list[int], short: int) -> None:
    permutation._SORTED = short
    order, expected = Windowed(counts, window, seed), reference.windowed(counts, window, seed, short)
    for epoch in epochs:
        assert order.at(epoch, np.arange(0, len(order), 2)).tolist() == [
            expected(epoch, place) for place in range(0, len(order), 2)
        ]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    weights=st.lists(st.integers(1, 5), min_size=8, max_size=8),
    length=st.integers(1, 200),
    step=st.integers(1, 40),
    seed=SEEDS,
    ranks=st.integers(1, 70),
    short=SORTED,
)
def test_mixtures(lengths: list[int], weights: list[int], length: int, step: int, seed: int, ranks: int, short: int) -> None:
    """Weights that change within an epoch, sources that are used several times, ranks that ask for their own places."""
    permutation._SORTED = short
    first, second = (tuple(map(float, weights[start : start + len(lengths)])) for start in (0, 4))
    parts: list[Order] = [Shuffled(size, number) for number, size in enumerate(lengths)]
    order = Mixture(parts, [Phase(0, first), Phase(step, second)], length, seed)
    order.prepare(length, 1)
    loops = [reference.shuffled(size, number, short) for number, size in enumerate(lengths)]
    for epoch in (0, 2):
        border = min(length, max(0, step - epoch * length))
        spans = [span for span in ((0, border, first), (border, length, second)) if span[0] < span[1]]
        expected = reference.mixture(loops, lengths, spans, seed, short)(epoch)
        for rank in range(min(ranks, length)):
            found = order.stretch(epoch, rank, length, ranks)
            assert [*zip(found.samples.tolist(), found.passes.tolist(), strict=True)] == expected[rank::ranks]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, done=st.integers(0, 30), at_once=st.integers(1, 50), announced=st.integers(1, 50))
def test_visits_of_all_epochs(seed: int, done: int, at_once: int, announced: int) -> None:
    """One iteration through three epochs, in blocks of any size, from any batch on; repeated samples are other visits."""
    order = Mixture([Shuffled(20, 0), Shuffled(6, 1)], [Phase(0, (1.0, 1.0))], 40, seed)
    known = sampler._AT_ONCE, sampler._ANNOUNCED
    sampler._AT_ONCE, sampler._ANNOUNCED = at_once, announced
    try:
        visits = PairSampler(order, batch_size=4, batches_done=lambda: done)
        visits.endless = True
        found = [visit for visit, _ in zip(visits, range(60), strict=False)]
    finally:
        sampler._AT_ONCE, sampler._ANNOUNCED = known
    loops = reference.mixture(
        [reference.shuffled(20, 0, 1 << 14), reference.shuffled(6, 1, 1 << 14)], [20, 6], [(0, 40, (1, 1))], seed, 1 << 14
    )
    expected = [
        Visit(visit_seed(epoch, again, 0) if again else epoch, sample)
        for epoch in range(done // 10, done // 10 + 3)
        for sample, again in loops(epoch)
    ][done % 10 * 4 :][:60]
    assert found == expected and all(isinstance(visit, Visit) for visit in found)
