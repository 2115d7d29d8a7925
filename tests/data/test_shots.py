"""k images a class: the same draw as the few-shot protocol, nested, and clear words where it cannot be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import write_folder

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data import FewShotSource, pair_sources
from lightning_clip.data.few_shot import draw_shots
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.sources import MixedSource, PairSource

LABELS = [number % 3 for number in range(30)]


class Numbers(PairSource):
    """Labelled images that may not be read."""

    class_names = ("zero", "one", "two")

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> Pair:
        raise AssertionError("labels alone are asked for")

    def label(self, index: int) -> int:
        return LABELS[index]


def test_same_draw_as_the_protocol() -> None:
    rows, held = draw_shots(torch.tensor(LABELS), 4, 3, seed=7)
    assert FewShotSource(Numbers(), shots=4, seed=7).indices.tolist() == rows.tolist()
    assert FewShotSource(Numbers(), shots=4, seed=7, held_out=True).indices.tolist() == held.tolist()


def test_a_smaller_draw_is_among_a_larger_one() -> None:
    draws = [set(FewShotSource(Numbers(), shots=shots).indices.tolist()) for shots in (1, 2, 4)]
    assert draws[0] < draws[1] < draws[2] and Counter(LABELS[row] for row in draws[2]) == {0: 4, 1: 4, 2: 4}


def test_all_images_but_a_fifth() -> None:
    train, held = (set(FewShotSource(Numbers(), None, held_out=held).indices.tolist()) for held in (False, True))
    assert len(held) == 6 and train | held == set(range(30)) and not train & held


@pytest.mark.parametrize("kind", ["folders", "shards", "table", "mix"])
def test_labels_without_images(kind: str, tmp_path: Path) -> None:
    """Of every source that knows them, those of the pairs."""
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "classes" / name / f"{number}.png")
    source = pair_sources.build(str(tmp_path / "classes"))
    if kind == "shards":
        pack_shards(source, str(tmp_path / "train-%06d.tar"))
        source = pair_sources.build(str(tmp_path / "train-000000.tar"))
    elif kind == "table":
        write_folder(tmp_path, count=6)
        source = pair_sources.build({"name": str(tmp_path / "captions.jsonl"), "label_column": "split"})
    elif kind == "mix":
        source = MixedSource([source, source])
    assert [source.label(index) for index in range(len(source))] == [source[index].label for index in range(len(source))]
    few = FewShotSource(source, shots=2, seed=1)
    assert Counter(few[row].label for row in range(len(few))) == {0: 2, 1: 2}
    assert few.label(0) == few[0].label


def test_by_name_as_in_a_recipe(tmp_path: Path) -> None:
    write_folder(tmp_path, count=9)
    spec = {"name": str(tmp_path / "captions.jsonl"), "caption_column": None, "label_column": "split"}
    few = pair_sources.build({"name": "shots", "source": spec, "shots": 2, "seed": 3})
    assert len(few) == 4 and few.class_names == ["train", "val"]  # type: ignore[attr-defined]


class TestErrors:
    def test_no_labels(self, tmp_path: Path) -> None:
        write_folder(tmp_path, count=6)
        with pytest.raises(InputError, match=r"6 of 6 samples have none: give a table's label_column"):
            FewShotSource(str(tmp_path))

    def test_too_few_images_of_a_class(self) -> None:
        with pytest.raises(InputError, match=r"class 0 \(zero\) has 10 images, fewer than 11 shots"):
            FewShotSource(Numbers(), shots=11)

    def test_no_shots(self) -> None:
        with pytest.raises(InputError, match="shots 0 must be at least 1 image of each class"):
            FewShotSource(Numbers(), shots=0)

    def test_nothing_left_to_choose_settings_on(self) -> None:
        with pytest.raises(InputError, match="no image is left beside the 10 shots"):
            FewShotSource(Numbers(), shots=10, held_out=True)
