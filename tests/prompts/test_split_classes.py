"""Splits of a set with other classes than its test split: labels go by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lightning_clip import InputError
from lightning_clip.prompts.evaluation_sets import open_evaluation_set

ROWS = {
    "test": ["ant", "bee", "cat"],
    "train": ["cat", "dog", "ant", "cat"],
    "val": ["ant", "bee", "cat"],
    "odd": ["eel", "fox"],
}


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [(split, kind) for split, kinds in ROWS.items() for kind in kinds]
    for number in range(len(rows)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    lines = ["image,kind,split", *(f"{number}.png,{kind},{split}" for number, (split, kind) in enumerate(rows))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "labels.csv")


def test_labels_count_the_classes_of_the_test_split(table: str, caplog: pytest.LogCaptureFixture) -> None:
    of = {"name": table, "caption_column": None, "label_column": "kind", "where": {"split": "test"}}
    found = open_evaluation_set({**of, "train": {"where": {"split": "train"}}, "val": {"where": {"split": "val"}}})
    assert found.names == ["ant", "bee", "cat"] and found.train is not None and found.val is not None
    assert [found.train[place].label for place in range(3)] == [2, 0, 2] == [found.train.label(place) for place in range(3)]
    assert len(found.train) == 3 and found.train.class_names == found.names
    assert [found.val[place].label for place in range(3)] == [0, 1, 2]
    assert "1 of 4 samples of the train split are of classes that the set lacks: omitted" in caplog.text


def test_no_class_in_common(table: str) -> None:
    of = {"name": table, "caption_column": None, "label_column": "kind", "where": {"split": "test"}}
    with pytest.raises(InputError, match=r"no sample of the train split is of a class of the set \(ant, bee, cat, ...\): its"):
        open_evaluation_set({**of, "train": {"where": {"split": "odd"}}})
