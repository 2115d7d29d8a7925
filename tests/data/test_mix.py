"""Mixed sources: proportions are exact, each pair comes once unless it is to be repeated, and weights follow the step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_module, small_trainer, write_folder

from lightning_clip import ClipDataModule, InputError
from lightning_clip.data import PairSampler
from lightning_clip.data.mixing_order import Mixture, Phase, epoch_length, shares
from lightning_clip.data.order import Shuffled, Windowed
from lightning_clip.data.sources import MixedSource

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def scenes(size: int) -> dict[str, Any]:
    return {"name": "synthetic", "size": size, "image_size": 32}


def mixture(lengths: list[int], phases: list[Phase], length: int, seed: int = 0) -> Mixture:
    return Mixture([Shuffled(size, seed + number) for number, size in enumerate(lengths)], phases, length, seed)


class TestMixture:
    @given(lengths=LENGTHS, data=st.data(), upsample=st.booleans(), seed=st.integers(0, 99), cut=st.floats(0, 1))
    @settings(max_examples=80, deadline=None)
    def test_proportions_and_coverage(
        self, lengths: list[int], data: st.DataObject, upsample: bool, seed: int, cut: float
    ) -> None:
        weights = data.draw(st.lists(st.floats(0.05, 1), min_size=len(lengths), max_size=len(lengths)))
        length = epoch_length(lengths, weights, upsample)
        if length < 1:
            return
        order = mixture(lengths, [Phase(0, tuple(weights))], length, seed)
        whole = order.stretch(5, 0, length)
        counts = Counter(whole.samples.tolist())
        starts = np.concatenate([[0], np.cumsum(lengths)])
        given_ = shares(weights, length)
        for number, size in enumerate(lengths):
            own = [counts[index] for index in range(starts[number], starts[number + 1])]
            assert sum(own) == given_[number]
            assert max(own) - min(own) <= 1  # no sample a third time before each came twice
            if not upsample:
                assert max(own) <= 1 or given_[number] - size <= 1  # rounding may ask for one more
        middle = int(length * cut)
        parts = [order.stretch(5, 0, middle), order.stretch(5, middle, length)]
        assert np.array_equal(np.concatenate([part.samples for part in parts]), whole.samples)
        assert np.array_equal(np.concatenate([part.passes for part in parts]), whole.passes)

    def test_passes_are_numbered(self) -> None:
        order = mixture([3, 10], [Phase(0, (1, 1))], epoch_length([3, 10], [1, 1], upsample=True))
        stretch = order.stretch(0, 0, 20)
        for index in range(3):
            seen = stretch.passes[stretch.samples == index]
            assert sorted(seen.tolist()) == list(range(len(seen)))

    def test_repeats_draw_anew(self) -> None:
        """A sample that comes again in an epoch gets another crop and caption."""
        order = mixture([2, 10], [Phase(0, (1, 1))], 20)
        visits = [visit for visit in PairSampler(order) if visit.index == 0]
        assert len(visits) == 5 and len({visit.epoch for visit in visits}) == 5

    def test_finely_mixed(self) -> None:
        order = mixture([5000, 5000], [Phase(0, (1, 3))], 6666)
        from_first = order.samples(0, 0, 6666) < 5000
        shares_ = [from_first[start : start + 600].mean() for start in range(0, 6000, 600)]
        assert all(abs(share - 0.25) < 0.07 for share in shares_)

    def test_curriculum_by_step(self) -> None:
        """Steps are global batches of the run: the change falls in the middle of the second epoch."""
        order = mixture([40, 40], [Phase(0, (1, 0)), Phase(15, (0, 1)), Phase(17, (1, 1))], 80)
        order.prepare(batches=10, batch_size=8)
        first, second, third = (order.samples(epoch, 0, 80) < 40 for epoch in range(3))
        assert first.all() and second[:40].all() and not second[40:56].any() and second[56:].mean() == 0.5
        assert third.mean() == 0.5

    def test_on_any_number_of_ranks(self) -> None:
        phases = [Phase(0, (1, 0)), Phase(3, (1, 1))]

        def batches(ranks: int) -> list[set[int]]:
            found: list[list[int]] = []
            for rank in range(ranks):
                with patch("lightning_clip.data.sampler.world", return_value=(rank, ranks)):
                    found.append([visit.index for visit in PairSampler(mixture([30, 30], phases, 60), batch_size=8 // ranks)])
            size = 8 // ranks
            return [set().union(*(own[at : at + size] for own in found)) for at in range(0, len(found[0]), size)]

        assert batches(1) == batches(2) == batches(4)

    def test_windows_stay_windows(self) -> None:
        order = Mixture([Windowed([5, 5, 5, 5], 2, 0), Shuffled(20, 1)], [Phase(0, (1, 1))], 40, seed=0)
        remote = [index for index in order.samples(0, 0, 40).tolist() if index < 20]
        assert len({index // 5 for index in remote[:10]}) == 2 and sorted(remote) == list(range(20))
        assert len(order.upcoming(0, 0)) == 4 and all(shard % 2 == 0 for shard in order.upcoming(0, 0))


class TestMixedSource:
    def test_without_weights_each_pair_once(self) -> None:
        mixed = MixedSource([scenes(30), scenes(10)])
        order = mixed.order(0)
        assert sorted(order.samples(0, 0, len(order)).tolist()) == list(range(40))
        assert mixed[35].key == mixed.sources[1][5].key and mixed.captions(35) == mixed.sources[1].captions(5)

    def test_fetches_from_the_right_source(self) -> None:
        mixed = MixedSource([scenes(3), scenes(3)])
        with patch.object(mixed.sources[1], "fetch") as fetch, patch.object(mixed.sources[0], "fetch") as other:
            mixed.fetch([1, 5, 9])
        fetch.assert_called_once_with([0, 2, 4])
        other.assert_not_called()

    def test_trains(self, tmp_path: Path) -> None:
        mix = {"name": "mix", "sources": [scenes(64), str(write_folder(tmp_path, 12))], "weights": [3, 1], "upsample": True}
        data = ClipDataModule(mix, local_batch_size=8)
        trainer = small_trainer(tmp_path, max_epochs=1, max_steps=-1)
        trainer.fit(small_module(), data)
        assert trainer.global_step == epoch_length([64, 12], [3, 1], upsample=True) // 8

    def test_errors(self) -> None:
        for settings_, message in [
            ({"sources": []}, "mix has 0 sources: give 1 to 256"),
            ({"sources": [scenes(3)], "weights": [1, 2]}, r"weights \[1, 2\] for 1 sources: give one per source"),
            ({"sources": [scenes(3)], "weights": [0]}, "not all 0"),
            ({"sources": [scenes(3)], "weights": [1], "curriculum": []}, "weights and a curriculum: give one of both"),
            ({"sources": [scenes(3)], "curriculum": [{"step": 5, "weights": [1]}]}, r"steps \[5\]: they must rise"),
            ({"sources": [scenes(3)], "curriculum": [{"weights": [1]}]}, "each entry needs 'step' and 'weights'"),
            ({"sources": [{"name": "pipe:cat x", "samples": 3}]}, "mix cannot hold a stream"),
        ]:
            with pytest.raises(InputError, match=message):
                MixedSource(**settings_)
