"""Calls of the applications' commands that cannot be meant are answered in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    save_checkpoint(folder / "small.ckpt")
    save_checkpoint(folder / "coca.ckpt", small_module(objective="captioning"))
    return folder


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("explain one.png --text cat --output heat.nope", "'heat.nope' is no file for a picture: give one that ends in .png"),
        ("explain one.png --text cat --output heat", "'heat' is no file for a picture"),
        ("explain one.png --text cat --output .", "'.' is no file for a picture"),
        ("segment one.png --labels cat,dog --output out --refine 10000000000000", "refine 10000000000000 must be"),
        ("imagine cat --output i.png --steps 1 --seed 99999999999999999999999", "seed 99999999999999999999999 must be"),
        ("imagine cat --output i.png --steps 1 --seed -1", "seed -1 must be"),
        ("caption one.png --batch-size 0", "0 must be at least 1"),
        ("caption one.png --batch-size -1", "-1 must be at least 1"),
        ("caption one.png --limit 0", "0 must be at least 1"),
    ],
)
def test_one_line(
    call: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    checkpoint = "coca.ckpt" if call.startswith("caption") else "small.ckpt"
    try:
        code = main([*call.split(), "--checkpoint", checkpoint])
    except SystemExit as ended:  # of an option that is wrong in itself
        code = int(ended.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (place / "i.png").exists() and not (place / "out").exists()
