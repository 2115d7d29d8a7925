"""`lightning-clip detect`: what it writes, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import IMAGE, save_checkpoint, small_module

from lightning_clip.cli import main

TO = ("--checkpoint", "boxes.ckpt", "--output", "found")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("detect")
    save_checkpoint(place / "boxes.ckpt", small_module(image_encoder={**IMAGE, "patch_size": 8}, objective="detection"))
    save_checkpoint(place / "pairs.ckpt", small_module())
    generator = np.random.default_rng(0)
    for name, size in {"one.jpg": (60, 40, 3), "two.png": (33, 90, 3)}.items():
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(place / name)
    (place / "again").mkdir()
    Image.new("RGB", (8, 8)).save(place / "again/one.png")
    return place


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_overlays_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--threshold", "0", "--limit", "3", "--overlap", "1")
    assert main(["detect", "one.jpg", "two.png", "--labels", "sea, boat", *TO, *options]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one.jpg", "two.png"] and lines[0].count(" %") == 3
    found = json.loads((folder / "found/two.boxes.json").read_text())
    assert (found["image"], found["width"], found["height"], found["labels"]) == ("two.png", 90, 33, ["sea", "boat"])
    assert len(found["found"]) == 3 and {entry["name"] for entry in found["found"]} <= {"sea", "boat"}
    for entry in found["found"]:
        left, top, right, bottom = entry["box"]
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 33 and 0 < entry["score"] < 1
    with Image.open(folder / "found/one.boxes.png") as overlay:
        assert min(overlay.size) > 150


def test_one_label_and_nothing_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "one.jpg", "--labels", "sea", *TO, "--threshold", "1"]) == 0
    assert capsys.readouterr().out == "one.jpg: nothing\n"
    assert json.loads((folder / "found/one.boxes.json").read_text())["found"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one.jpg", *TO, "--labels", " , "), "--labels ' , ' names nothing: give what is looked for, separated by commas"),
        (("one.jpg", *TO, "--labels", "sea,sea"), "names 'sea' twice"),
        (("one.jpg", "again/one.png", *TO, "--labels", "sea"), "two pictures are called 'one': detect in them into"),
        (("lost.jpg", *TO, "--labels", "sea"), "image 'lost.jpg' does not exist"),
        (("one.jpg", *TO, "--labels", "sea", "--threshold", "2"), "threshold 2.0 must be"),
        (
            ("one.jpg", "--checkpoint", "pairs.ckpt", "--output", "o", "--labels", "sea"),
            "the model has no detection head: train",
        ),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", *arguments]) == 2
    found = capsys.readouterr().err
    assert message in found and len(found.strip().splitlines()) == 1
