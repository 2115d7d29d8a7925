"""Batches joined from parts: what one worker would have made of the whole, whatever the number of workers and parts."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_data, small_module, small_trainer, write_folder

from lightning_clip import ClipDataModule, InputError
from lightning_clip.core.types import Pair, PairBatch, Skipped
from lightning_clip.data import ClipTokenizer, PairSource, parts
from lightning_clip.data.batches import PairCollator, PreparedPair
from lightning_clip.data.loader import PairLoader
from lightning_clip.data.parts import join, part_size
from lightning_clip.data.teachers import StoredTeacher

CROPS = {"crop_scale": (0.3, 1.0), "flip": 0.5}
WORDS = ClipTokenizer(context_length=24)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LEAST", 2)


@pytest.fixture(scope="module")
def module() -> Any:
    found = small_module(transform=CROPS)
    found.configure_model()
    return found


def spoil(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(b"spoilt")


def same(first: Any, second: Any) -> bool:
    """Whether two batches are equal in all that they hold."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and bool((first == second).all())
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, tuple | list):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def batches(module: Any, data: ClipDataModule, count: int, done: int = 0) -> list[PairBatch]:
    """The first batches of training from a place on."""
    loader: Any = data.attach(module).train_dataloader()
    loader.sampler.endless, loader.sampler.batches_done = True, lambda: done
    loader.left()
    return [loader.take() for _ in range(count)]


class TestLoader:
    @pytest.mark.parametrize("workers", [2, 3, 5])
    def test_same_batches_from_any_step(self, workers: int, module: Any, tmp_path: Path) -> None:
        table = write_folder(tmp_path, count=40)
        spoil(tmp_path, [3, 17, 18])
        whole = batches(module, ClipDataModule(str(table), local_batch_size=9), 10)
        for done in (0, 3):
            data = ClipDataModule(str(table), local_batch_size=9, num_workers=workers)
            found = batches(module, data, 10 - done, done)
            assert same(found, whole[done:])
        assert sum(len(batch.skipped) for batch in whole[:4]) in (2, 3)  # of 36 places in 40

    def test_a_batch_of_bad_samples_is_filled_once(self, module: Any, tmp_path: Path) -> None:
        table = write_folder(tmp_path, count=16)
        spoil(tmp_path, range(15))
        whole = batches(module, ClipDataModule(str(table), local_batch_size=8), 4)
        found = batches(module, ClipDataModule(str(table), local_batch_size=8, num_workers=2), 4)
        assert same(found, whole)
        assert {(len(batch.skipped), batch.size) for batch in whole} == {(8, 1), (7, 1)}

    @pytest.mark.parametrize("size", [16, 19])
    def test_evaluation_ends_with_a_part_of_a_batch(self, size: int, module: Any) -> None:
        found, whole = (
            list(small_data(size, batch=8, num_workers=workers).attach(module).val_dataloader()) for workers in (3, 0)
        )
        assert same(found, whole)
        assert sum(batch.size for batch in found) == size

    def test_its_length_is_in_batches(self, module: Any) -> None:
        loader = small_data(19, batch=8, num_workers=2).attach(module).val_dataloader()
        assert isinstance(loader, PairLoader) and loader.part_size == 4 and len(loader) == 3

    def test_an_error_in_a_worker_ends_the_run(self, module: Any) -> None:
        data = ClipDataModule(Crowded(), local_batch_size=8, num_workers=2)
        with pytest.raises(InputError, match=r"reading photos/5.jpg: too many files are open"):
            batches(module, data, 4)


class Crowded(PairSource):
    """One of its samples meets a fault of the machine."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Pair:
        if index == 5:
            raise OSError(errno.EMFILE, "said by the system", "photos/5.jpg")
        return Pair(torch.zeros(3, 8, 8, dtype=torch.uint8), ("a picture",), str(index))


class TestTrainer:
    def test_predictions_are_in_order(self, tmp_path: Path) -> None:
        found = []
        for workers in (0, 2):
            torch.manual_seed(0)
            made = small_trainer(tmp_path).predict(small_module(), small_data(20, batch=8, num_workers=workers))
            assert made is not None
            found.append(torch.cat([output.image_features for output in made]))
        assert found[0].shape == (20, 16) and torch.equal(*found)

    def test_two_fits_with_validation(self, tmp_path: Path) -> None:
        runs = []
        for workers in (0, 2):
            seen = Sees()
            torch.manual_seed(0)
            model, data = small_module(), small_data(24, batch=8, num_workers=workers)
            for _ in range(2):
                small_trainer(tmp_path, max_steps=-1, max_epochs=2, callbacks=[seen]).fit(model, data)
            runs.append(seen.found)
        assert runs[0] == runs[1] and len(runs[0]) == 12


class Sees(pl.Callback):
    def __init__(self) -> None:
        self.found: list[list[int]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: PairBatch, *_: Any) -> None:
        self.found.append(batch.index.tolist())


def prepared(number: int, caption: str, values: dict[str, Any], teachers: Any) -> PreparedPair:
    pixels = torch.full((3, 4, 4), number, dtype=torch.uint8)
    return PreparedPair(pixels, caption, Pair(b"", (caption,), str(number), number % 3 or None), number, None, teachers, values)


def teacher(width: int) -> StoredTeacher:
    return StoredTeacher(torch.rand(width), torch.rand(width), 10.0)


GPS = st.sampled_from([(1, 2), (1.5, 2), (True, False), (1.5, 2.5)])
TEACHERS = st.sampled_from([None, *[[4]] * 12, [5], [4, 4]])
SAMPLES = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from(["a dog", "a red bus in the rain at night"]), GPS, TEACHERS)),
    min_size=1,
    max_size=9,
)


class TestJoin:
    @settings(max_examples=60, deadline=None)
    @given(samples=SAMPLES, size=st.integers(1, 9))
    def test_any_parts_make_the_whole(self, samples: list[Any], size: int) -> None:
        """Bad samples, captions of several lengths, numbers of several kinds, teachers of several widths or none."""
        rows: list[PreparedPair | Skipped] = [
            Skipped(str(number), "bad")
            if sample is None
            else prepared(number, sample[0], {"gps": sample[1]}, sample[2] and [teacher(width) for width in sample[2]])
            for number, sample in enumerate(samples)
        ]
        collate = PairCollator(WORDS, {"gps": None})
        pieces = [collate(rows[start : start + size]) for start in range(0, len(rows), size)]
        assert same(join(pieces), collate(rows))

    def test_shapes_that_differ_between_parts(self) -> None:
        collate = PairCollator(WORDS)
        pieces = [collate([prepared(0, "a dog", {"gps": values}, None)]) for values in ((1, 2), (1, 2, 3))]
        with pytest.raises(InputError, match=r"column 'gps' has values of different shapes in one batch, \(2,\), \(3,\)"):
            join(pieces)

    def test_padding_is_the_tokenizer_s(self) -> None:
        collate = PairCollator(WORDS)
        texts = ("a dog", "a red bus in the rain at night, and more of it")
        found = join([collate([prepared(0, text, {}, None)]) for text in texts], pad_id=7)
        assert found.tokens is not None and found.mask is not None
        assert found.tokens[0].tolist()[8:] == [7] * (found.tokens.shape[1] - 8) and not found.mask[0, 8:].any()

    def test_pinned_memory_is_asked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        collate, asked, empty = PairCollator(WORDS), [], torch.empty

        def counted(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            asked.append((tuple(shape[0]), pin_memory))
            return empty(*shape, **options)

        pieces = [collate([prepared(number, "a dog", {}, None)]) for number in range(3)]
        monkeypatch.setattr("torch.empty", counted)
        found = join(pieces, pinned=True)
        monkeypatch.undo()
        assert same(found, join(pieces))
        assert asked == [((3, 3, 4, 4), True), ((3, 8), True), ((3, 8), True), ((3,), True), ((3,), True)]


class TestChoice:
    def test_small_batches_stay_whole(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "LEAST", 16)
        data = small_data(64, batch=16).attach(module)
        loader = data.train_dataloader()
        sizes = {
            (batch, workers): part_size(loader.dataset, loader.collate_fn, batch, workers)
            for batch, workers in ((512, 14), (512, 1), (512, 0), (31, 8), (32, 8), (100, 3))
        }
        assert sizes == {(512, 14): 37, (512, 1): None, (512, 0): None, (31, 8): None, (32, 8): 16, (100, 3): 34}

    def test_what_is_looked_at_whole_stays_whole(self, module: Any) -> None:
        loader: Any = small_data(64, batch=16).attach(module).train_dataloader()
        assert part_size(loader.dataset, PairCollator(WORDS, {"gps": None}), 16, 2) == 8
        assert part_size(loader.dataset, PairCollator(WORDS, {"gps": list}), 16, 2) is None
        assert part_size(loader.dataset, PairCollator(PadsLeft(24)), 16, 2) is None
        loader.dataset.features = object()
        assert part_size(loader.dataset, loader.collate_fn, 16, 2) is None

    def test_workers_that_are_spawned_get_it(self, module: Any) -> None:
        loader: Any = small_data(64, batch=16, num_workers=2).attach(module).train_dataloader()
        dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert dataset.divided and same(collate([]).rows, loader.collate_fn([]).rows)


class PadsLeft(ClipTokenizer):
    def __call__(self, texts: Any) -> Any:
        tokens, mask = super().__call__(texts)
        return tokens.flip(1), mask.flip(1)
