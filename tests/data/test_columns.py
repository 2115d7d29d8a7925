"""Columns beyond image and text: collated, skipped where they are missing, checked before a run."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, gradient
from torch import Tensor, nn

from lightning_clip import ClipDataModule, InputError
from lightning_clip.core.types import Pair, PairBatch
from lightning_clip.data.batches import PairCollator, PreparedPairs
from lightning_clip.data.captions import first_caption
from lightning_clip.data.columns import collate_column, stack_column
from lightning_clip.data.sampler import Visit
from lightning_clip.data.sources import MixedSource, PairSource
from lightning_clip.data.sources.base import Subset
from lightning_clip.encoders.base import Tower
from lightning_clip.encoders.stacking import stack_values


class Listed(PairSource):
    """Pairs from a list; None cannot be read."""

    def __init__(self, pairs: list[Pair | None]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        if (pair := self.pairs[index]) is None:
            raise OSError("image file missing")
        return pair


def placed(count: int = 8, **changes: Pair | None) -> Listed:
    """Images with coordinates and no text."""
    pairs: list[Pair | None] = [
        Pair(encoded(gradient(20, 16), "PNG"), (), str(number), columns={"gps": (number, number + 0.5)})
        for number in range(count)
    ]
    for place, pair in changes.items():
        pairs[int(place[1:])] = pair
    return Listed(pairs)


def pad(values: list[Any]) -> dict[str, Tensor]:
    lengths = torch.tensor([len(value) for value in values])
    return {"wave": nn.utils.rnn.pad_sequence([torch.tensor(value) for value in values], True), "length": lengths}


class Views(nn.Module):
    """Two views of an image: as it is, and brighter."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image[:, :8, :8], image[:, :8, :8] + torch.randint(0, 9, (1,), dtype=torch.uint8)


class Reader:
    """Stands for a module: says which columns its towers read."""

    tokenizer: Any = None

    def __init__(self, columns: Mapping[str, Callable[[list[Any]], Any] | None], transform: nn.Module | None = None) -> None:
        self._columns, self._transform = columns, transform or Crop()

    def columns(self) -> Mapping[str, Callable[[list[Any]], Any] | None]:
        return self._columns

    def image_transform(self, train: bool) -> nn.Module:
        return self._transform

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        return rng.choice(pair.captions)


class Crop(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[:, :8, :8]


def batches(source: Any, reader: Reader, batch: int = 4, workers: int = 0, **more: Any) -> list[PairBatch]:
    data = ClipDataModule(source, local_batch_size=batch, num_workers=workers, **more).attach(reader)
    return list(data.train_dataloader())


class TestStack:
    @pytest.mark.parametrize(
        ("values", "dtype", "shape"),
        [
            ([1, 2], torch.int64, (2,)),
            ([1, 2.5], torch.float32, (2,)),
            ([(1.0, 2), (3, 4)], torch.float32, (2, 2)),
            ([np.float64(1), np.float64(2)], torch.float32, (2,)),
            ([np.zeros((3, 2), np.float16)] * 3, torch.float32, (3, 3, 2)),
            ([np.zeros(2, ">f8")] * 2, torch.float32, (2, 2)),
            ([np.zeros(2, np.int16)] * 2, torch.int64, (2, 2)),
            ([True, False], torch.bool, (2,)),
            ([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 2, torch.uint8, (2, 3, 4, 4)),
            ([torch.zeros(2, dtype=torch.float64)] * 2, torch.float32, (2, 2)),
            ([], torch.float32, (0,)),
        ],
    )
    def test_kinds(self, values: list[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        found = stack_column("x", values)
        assert (found.dtype, tuple(found.shape)) == (dtype, shape)

    def test_values_stay(self) -> None:
        assert stack_column("gps", [(48.9, 2.4), (52.5, -13.4)]).tolist() == torch.tensor([[48.9, 2.4], [52.5, -13.4]]).tolist()

    def test_errors(self) -> None:
        with pytest.raises(InputError, match=r"column 'wave' has values of different shapes in one batch, \(2,\), \(3,\).*pad"):
            stack_column("wave", [[1, 2], [1, 2, 3]])
        with pytest.raises(InputError, match="column 'name' has values of type str, which cannot be stacked"):
            stack_column("name", ["a", "b"])
        with pytest.raises(InputError, match="column 'deep' has values of type list, which cannot be stacked"):
            stack_column("deep", [[1, [2, 3]]])

    def test_a_tower_collates(self) -> None:
        found = collate_column("wave", pad, [[1.0, 2.0], [3.0]])
        assert found["wave"].tolist() == [[1, 2], [3, 0]] and found["length"].tolist() == [2, 1]

    def test_a_collate_that_loses_the_samples(self) -> None:
        with pytest.raises(InputError, match=r"column 'gps': collate\(\) gave a tensor of shape \(4,\) for 2 samples"):
            collate_column("gps", lambda values: torch.tensor(values).flatten(), [(1, 2), (3, 4)])
        with pytest.raises(InputError, match="column 'gps': values of type str"):
            collate_column("gps", stack_values, ["a"])


class TestBatches:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_image_and_numbers_without_text(self, workers: int) -> None:
        found = batches(placed(), Reader({"image": None, "gps": None}), workers=workers)
        for batch in found:
            assert batch.image.shape == (4, 3, 8, 8) and batch.image.dtype == torch.uint8
            assert batch.tokens is None and batch.mask is None and batch.lengths is None and batch.texts is None
            assert batch.columns["gps"].tolist() == [[number, number + 0.5] for number in batch.index.tolist()]
            assert batch.size == 4
        assert sorted(number for batch in found for number in batch.index.tolist()) == list(range(8))

    def test_without_images_none_is_decoded(self) -> None:
        source = placed(
            _1=Pair(b"no image", (), "1", columns={"gps": (1, 1.5)}), _2=Pair(None, (), "2", columns={"gps": (2, 2.5)})
        )
        found = batches(source, Reader({"gps": None}))
        assert all(batch.image is None and batch.columns["gps"].shape == (4, 2) and not batch.skipped for batch in found)

    def test_the_order_is_that_of_images_and_texts(self) -> None:
        source = Listed([Pair(b"", (str(n),), str(n), columns={"gps": (n, n)}) for n in range(12)])
        places = [batch.columns["gps"][:, 0].tolist() for batch in batches(source, Reader({"gps": None}))]
        data = ClipDataModule(source, local_batch_size=4).attach(Reader({}))
        assert places == [[visit.index for visit in list(data.train_dataloader().sampler)[n : n + 4]] for n in (0, 4, 8)]  # type: ignore[arg-type]

    def test_a_tower_that_pads(self) -> None:
        source = Listed([Pair(None, (), str(n), columns={"wave": [1.0] * (n + 1)}) for n in range(4)])
        (batch,) = batches(source, Reader({"wave": pad}))
        assert batch.columns["wave"]["length"].tolist() == [n + 1 for n in batch.index.tolist()]
        assert batch.columns["wave"]["wave"].shape == (4, 4)

    def test_views(self) -> None:
        reader = Reader({"image": None, "view2": None}, Views())
        (first,), (again,) = (batches(placed(4), reader) for _ in range(2))
        assert first.columns["view2"].shape == (4, 3, 8, 8) and first.columns["view2"].dtype == torch.uint8
        shift = (first.columns["view2"].int() - first.image.int()).unique().tolist()
        assert set(shift) <= set(range(9)) and len(shift) > 1
        assert torch.equal(first.columns["view2"], again.columns["view2"])

    def test_a_model_that_does_not_say_reads_image_and_text(self) -> None:
        pairs = PreparedPairs(placed(1), Crop(), first_caption, seed=0)
        sample = pairs[Visit(0, 0)]
        assert sample.columns == {} and sample.image.shape == (3, 8, 8)  # type: ignore[union-attr]

    def test_evaluation_of_some_columns(self) -> None:
        """Labelled images, for a model that reads coordinates too."""
        source = Listed([Pair(encoded(gradient(20, 16), "PNG"), (), str(n), n) for n in range(3)])
        data = ClipDataModule(local_batch_size=4).attach(Reader({"image": None, "text": None, "gps": None}))
        (batch,) = data.evaluation_loader(source, ["image"])
        assert batch.image.shape == (3, 3, 8, 8) and batch.tokens is None and batch.label.tolist() == [0, 1, 2]
        with pytest.raises(InputError, match="no source has a column 'gps'"):
            data.evaluation_loader(source, ["image", "gps"])

    def test_what_workers_need_can_be_pickled(self) -> None:
        """As they are started on macOS and Windows."""
        data = ClipDataModule(placed(), local_batch_size=4).attach(Reader({"gps": Tower.collate, "wave": pad}))
        with pytest.raises(InputError, match="no source has a column 'wave'"):
            data.train_dataloader()
        loader = ClipDataModule(placed(), local_batch_size=4).attach(Reader({"gps": Tower.collate})).train_dataloader()
        dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert collate(dataset.__getitems__([Visit(0, 2), Visit(0, 1)])).columns["gps"].tolist() == [[2, 2.5], [1, 1.5]]

    def test_captions_without_a_tokenizer(self) -> None:
        with pytest.raises(InputError, match=r"captions are read but there is no tokenizer: give one, or text=False"):
            PairCollator(None)


class TestMissing:
    def test_a_sample_without_the_column_is_skipped(self) -> None:
        lacks = Pair(encoded(gradient(20, 16), "PNG"), (), "3")
        found = batches(placed(_3=lacks, _5=Pair(None, (), "5", columns={"gps": (5, 5)})), Reader({"image": None, "gps": None}))
        assert sorted(skip for batch in found for skip in batch.skipped) == [
            ("sample 3", "no column 'gps'"), ("sample 5", "no column 'image'"),
        ]  # fmt: skip
        assert sum(batch.size for batch in found) == 6

    def test_none_is_no_value(self) -> None:
        found = batches(placed(_3=Pair(None, (), "3", columns={"gps": None})), Reader({"gps": None}))
        assert [skip.reason for batch in found for skip in batch.skipped] == ["no column 'gps'"]

    def test_a_column_that_no_source_has(self) -> None:
        for workers in (0, 2):
            with pytest.raises(
                InputError, match=r"no source has a column 'depth'.*there is 'gps', 'image'\).*KEY.depth.npy, or let the tower"
            ):
                batches(placed(), Reader({"image": None, "depth": None}), workers=workers)

    def test_an_image_that_no_source_has(self) -> None:
        with pytest.raises(InputError, match="no source has a column 'image'.*there is 'gps'.*omit the image tower"):
            batches(Listed([Pair(None, (), "0", columns={"gps": 1})]), Reader({"image": None, "gps": None}), batch=1)

    def test_views_that_the_transform_does_not_make(self) -> None:
        with pytest.raises(InputError, match=r"no source has a column 'view3'.*transform: \{views: 3\}"):
            batches(placed(), Reader({"image": None, "view3": None}, Views()))

    def test_a_first_sample_that_cannot_be_read(self) -> None:
        assert batches(placed(_0=None), Reader({"image": None, "gps": None}))
        with pytest.raises(InputError, match="no source has a column 'depth'"):
            batches(placed(_0=None, _1=None), Reader({"image": None, "depth": None}))

    def test_a_part_of_a_mix(self) -> None:
        without = Listed([Pair(None, (), str(n), columns={"other": n}) for n in range(4)])
        with pytest.raises(InputError, match="source 2 of 2 has no column 'gps'.*there is 'other'"):
            batches(MixedSource([placed(), without]), Reader({"gps": None}))
        assert batches(MixedSource([placed(4), Subset(placed(8), [4, 5, 6, 7])]), Reader({"gps": None}))

    def test_evaluation_is_checked_too(self) -> None:
        data = ClipDataModule(None, placed()).attach(Reader({"depth": None}))
        with pytest.raises(InputError, match="no source has a column 'depth'"):
            data.val_dataloader()
