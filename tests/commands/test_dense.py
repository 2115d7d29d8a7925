"""`lightning-clip segment` and `lightning-clip explain`: what they write, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip.cli import main

CHECKPOINT = ("--checkpoint", "last.ckpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dense")
    vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    save_checkpoint(place / "last.ckpt", small_module(image_encoder=vit))
    generator = np.random.default_rng(0)
    for name, size in {"one.jpg": (60, 40, 3), "two.png": (33, 90, 3)}.items():
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(place / name)
    (place / "again").mkdir()
    Image.new("RGB", (8, 8)).save(place / "again/one.png")
    return place


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_segment_writes_an_overlay_and_a_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "one.jpg", "two.png", "--labels", "sea, sky,boat", *CHECKPOINT, "--output", "areas"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one.jpg", "two.png"] and " %" in lines[0]
    assert sorted(path.name for path in (folder / "areas").iterdir()) == [
        "one.mask.png",
        "one.overlay.png",
        "two.mask.png",
        "two.overlay.png",
    ]
    with Image.open(folder / "areas/two.mask.png") as mask:
        assert mask.size == (90, 33) and mask.mode == "P" and set(np.array(mask).flatten()) <= {0, 1, 2}
    with Image.open(folder / "areas/one.overlay.png") as overlay:
        assert min(overlay.size) > 150


def test_segment_leaves_out_what_is_unsure(folder: Path) -> None:
    options = ("--threshold", "1", "--method", "maskclip", "--overlap", "0.25", "--resolution", "40")
    assert main(["segment", "one.jpg", "--labels", "sea,sky", *CHECKPOINT, "--output", "unsure", *options]) == 0
    with Image.open(folder / "unsure/one.mask.png") as mask:
        assert set(np.array(mask).flatten()) == {255}


@pytest.mark.parametrize("texts", [["a red boat on the sea"], ["a boat", "the sea"]])
def test_explain_writes_a_picture(texts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [part for text in texts for part in ("--text", text)]
    assert main(["explain", "one.jpg", *given, *CHECKPOINT, "--output", "heat.png"]) == 0
    lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.strip().splitlines()]
    assert lines == ([texts[0], "red", "boat", "sea"] if len(texts) == 1 else texts)
    with Image.open(folder / "heat.png") as picture:
        assert picture.size[0] > picture.size[1] > 200


TO = (*CHECKPOINT, "--output", "out")
SEGMENT, EXPLAIN = ("segment", "one.jpg", *TO), ("explain", "one.jpg", *CHECKPOINT, "--output", "o.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SEGMENT, "--labels", "sea"), "--labels 'sea' names 1 class: give at least two, separated by commas"),
        ((*SEGMENT, "--labels", "sea,sea"), "names 'sea' twice"),
        (("segment", "one.jpg", "again/one.png", *TO, "--labels", "a,b"), "two pictures are called 'one': segment them into"),
        ((*SEGMENT, "--labels", "a,b", "--method", "masklip"), "unknown dense method 'masklip': did you mean 'maskclip'"),
        ((*SEGMENT, "--labels", "a,b", "--overlap", "1"), "overlap 1.0 must be a number >= 0 and < 1"),
        (("segment", "lost.jpg", *TO, "--labels", "a,b"), "image 'lost.jpg' does not exist"),
        (("segment", "last.ckpt", *TO, "--labels", "a,b"), "image 'last.ckpt' cannot be read: not an image"),
        ((*EXPLAIN, "--text", " "), "texts [' '] must be words"),
        ((*EXPLAIN, "--text", "a", "--method", "grad"), "unknown relevance method 'grad': did you mean 'gradcam'"),
    ],
)  # fmt: skip
def test_mistakes(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0], said
    assert not (folder / "out").exists() and not (folder / "o.png").exists()
