"""The order of samples: a permutation by (seed, epoch), each sample once over the ranks, crops and captions fixed by both."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_data, small_module, write_folder

from lightning_clip import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data import ClipDataModule, PairSampler, SyntheticScenes
from lightning_clip.data.drawing import COLOURS, SHAPES
from lightning_clip.data.mixing_order import Mixture, Phase
from lightning_clip.data.order import Order, Sequential, Shuffled, Windowed
from lightning_clip.data.permutation import Integers
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.synthetic import combination_names, held_out_combinations


def orders(order: Order, world: int, batch_size: int | None = None) -> list[list[int]]:
    """The indices each rank sees."""
    found = []
    for rank in range(world):
        with patch("lightning_clip.data.sampler.world", return_value=(rank, world)):
            sampler = PairSampler(order, batch_size=batch_size)
            sampler.set_epoch(3)
            visits = list(sampler)
            assert len(visits) == len(sampler) and all(visit.epoch == 3 for visit in visits)
            found.append([visit.index for visit in visits])
    return found


class TestSampler:
    @given(length=st.integers(1, 300), world=st.integers(1, 5), seed=st.integers(0, 2**40), shuffle=st.booleans())
    @settings(deadline=None, max_examples=60)
    def test_each_sample_once(self, length: int, world: int, seed: int, shuffle: bool) -> None:
        if length < world:
            return
        seen = [index for order in orders(Shuffled(length, seed) if shuffle else Sequential(length), world) for index in order]
        assert sorted(seen) == list(range(length))

    @given(
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
        kind=st.sampled_from(["sequential", "shuffled", "windowed", "mixture"]),
        step=st.integers(1, 9),
        data=st.data(),
    )
    @settings(deadline=None, max_examples=150)
    def test_own_places_are_those_of_the_whole_order(self, sizes: list[int], kind: str, step: int, data: st.DataObject) -> None:
        """What a rank asks for is every n-th sample of what there is, in samples and passes."""
        total, seed = sum(sizes), 7
        if kind == "mixture":
            parts = [Shuffled(size, seed) for size in sizes if size] + [Windowed(sizes, 2, seed)]
            phases = [Phase(0, (1.0,) * len(parts)), Phase(3, (2.0,) + (1.0,) * (len(parts) - 1))]
            order: Order = Mixture(parts, phases, 3 * total, seed)
        else:
            plain = {"sequential": Sequential(total), "shuffled": Shuffled(total, seed), "windowed": Windowed(sizes, 2, seed)}
            order = plain[kind]
        start = data.draw(st.integers(0, len(order)))
        stop = data.draw(st.integers(start, len(order)))
        whole, own = order.stretch(4, 0, len(order)), order.stretch(4, start, stop, step)
        assert own.samples.tolist() == whole.samples[start:stop:step].tolist()
        assert own.passes.tolist() == whole.passes[start:stop:step].tolist()

    def test_what_is_computed_for_a_sample_does_not_grow_with_the_ranks(self) -> None:
        asked: list[int] = []

        class Counted(Shuffled):
            def at(self, epoch: int, places: Integers) -> Integers:
                asked.append(len(places))
                return super().at(epoch, places)

        with patch("lightning_clip.data.sampler.world", return_value=(700, 1024)):
            assert len(list(PairSampler(Counted(10_240, 0)))) == sum(asked) == 10

    @given(length=st.integers(8, 300), world=st.sampled_from([1, 2, 4]), batch=st.integers(1, 4), seed=st.integers(0, 99))
    @settings(deadline=None, max_examples=60)
    def test_full_batches_do_not_depend_on_ranks(self, length: int, world: int, batch: int, seed: int) -> None:
        """The same global batch holds the same samples on any number of ranks; only less than one batch is left out."""
        if length < 4 * batch:
            return
        total = 4 * batch  # the global batch: 4 ranks of `batch`, 2 of twice that, 1 of four times
        local = total // world
        ranks = orders(Shuffled(length, seed), world, local)
        one = orders(Shuffled(length, seed), 1, total)[0]
        assert len(one) == length // total * total and len({len(rank) for rank in ranks}) == 1
        for step in range(len(one) // total):
            together = {index for rank in ranks for index in rank[step * local : (step + 1) * local]}
            assert together == set(one[step * total : (step + 1) * total])

    def test_epochs_and_seeds_differ(self) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            sampler = PairSampler(Shuffled(50, seed))
            sampler.set_epoch(epoch)
            return [visit.index for visit in sampler]

        assert len({tuple(order(seed, epoch)) for seed, epoch in product(range(3), range(3))}) == 9
        assert order(1, 2) == order(1, 2)

    def test_seeds_do_not_collide(self) -> None:
        assert len({visit_seed(*key) for key in product(range(20), repeat=3)}) == 8000

    def test_batch_larger_than_the_data(self) -> None:
        with pytest.raises(
            InputError, match="a batch of 9 on each of 1 ranks needs 9 samples, but the data has 8: .* at most 8"
        ):
            PairSampler(Sequential(8), batch_size=9)


def batches(data: ClipDataModule, epoch: int = 0) -> list[PairBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


class TestBatches:
    def test_shapes(self) -> None:
        data = small_data(20, batch=8).attach(small_module())
        batch = batches(data)[0]
        assert batch.image.shape == (8, 3, 32, 32) and batch.image.dtype == torch.uint8
        assert batch.tokens.shape == batch.mask.shape and batch.tokens.shape[1] % 8 == 0
        assert len(batches(data)) == 2 and len(list(data.attach(small_module()).val_dataloader())) == math.ceil(20 / 8)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_same_pixels_and_captions_with_any_number_of_workers(self, workers: int, tmp_path: Path) -> None:
        table = str(write_folder(tmp_path, count=24))
        module = small_module(transform={"crop_scale": [0.1, 1.0], "flip": 0.5})
        one, other = (
            batches(ClipDataModule(table, local_batch_size=6, num_workers=number).attach(module), epoch=2)
            for number in (0, workers)
        )
        for first, second in zip(one, other, strict=True):
            assert first.keys == second.keys
            assert torch.equal(first.image, second.image) and torch.equal(first.tokens, second.tokens)

    def test_another_epoch_draws_anew(self, tmp_path: Path) -> None:
        table = str(write_folder(tmp_path, count=24))
        data = ClipDataModule(table, local_batch_size=24).attach(small_module())
        first, second = batches(data, 0)[0], batches(data, 1)[0]
        assert sorted(first.keys) == sorted(second.keys) and first.keys != second.keys
        texts = [
            {key: tokens.tolist() for key, tokens in zip(batch.keys, batch.tokens, strict=True)} for batch in (first, second)
        ]
        assert texts[0] != texts[1]  # half of the images have two captions

    def test_loading_does_not_disturb_the_global_generator(self) -> None:
        data = small_data(20, batch=4).attach(small_module(transform={"crop_scale": [0.1, 1.0]}))
        loader = iter(data.train_dataloader())  # draws one base seed, as every DataLoader does
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        list(loader)
        assert torch.equal(torch.rand(3), expected)


class TestSynthetic:
    def test_training_never_shows_what_is_held_out(self) -> None:
        hidden = {f"{colour} {shape}" for colour, shape in held_out_combinations()}
        scenes = SyntheticScenes(size=500, image_size=16)
        shown = {scenes.class_names[scenes[i].label] for i in range(500)}  # type: ignore[index]
        assert not shown & hidden and len(shown) == len(COLOURS) * len(SHAPES) - len(hidden)

    def test_each_colour_and_shape_is_held_out_once(self) -> None:
        colours, shapes = zip(*held_out_combinations(), strict=True)
        assert sorted(colours) == sorted(COLOURS) and sorted(shapes) == sorted(SHAPES)

    def test_held_out_scenes_are_balanced(self) -> None:
        scenes = SyntheticScenes(size=64, held_out=True, image_size=16)
        assert scenes.class_names == combination_names(held_out=True)
        assert torch.bincount(torch.tensor([scenes[i].label for i in range(64)])).tolist() == [8] * 8
        everything = SyntheticScenes(size=16, held_out=True, all_classes=True, image_size=16)
        assert len(everything.class_names) == 64

    def test_a_scene_is_a_function_of_its_number(self) -> None:
        one, two, other = SyntheticScenes(seed=1), SyntheticScenes(seed=1), SyntheticScenes(seed=2)
        assert torch.equal(one[7].image, two[7].image) and one[7].captions == two[7].captions  # type: ignore[arg-type]
        assert not torch.equal(one[7].image, other[7].image)  # type: ignore[arg-type]
        assert not torch.equal(one[7].image, SyntheticScenes("val", seed=1)[7].image)  # type: ignore[arg-type]

    def test_captions_tell_the_truth(self) -> None:
        scenes = SyntheticScenes(size=200, image_size=16)
        for number in range(200):
            pair = scenes[number]
            colour, shape = scenes.class_names[pair.label].split()  # type: ignore[index]
            named_colours = [name for name in COLOURS if f" {name} " in f" {pair.captions[0]} "]
            named_shapes = [name for name in SHAPES if name in pair.captions[0]]
            assert named_colours in ([colour], []) and named_shapes in ([shape], [])

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="synthetic split 'dev' must be one of train, val, test"):
            SyntheticScenes("dev")
        with pytest.raises(InputError, match="synthetic size 0 must be at least 1"):
            SyntheticScenes(size=0)
        with pytest.raises(IndexError):
            SyntheticScenes(size=3)[3]
