"""Models of other than three channels: formats that hold them, and those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small import IMAGE, save_checkpoint, small_module

from lightning_clip.cli import main
from lightning_clip.loading import open_predictor


def test_one_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = small_module(image_encoder={**IMAGE, "in_chans": 1}, transform={"channels": 1})
    checkpoint = str(save_checkpoint(tmp_path / "grey.ckpt", module))
    for format in ("huggingface", "open_clip"):
        assert main(["export", checkpoint, "--format", format, "--output", str(tmp_path / format)]) == 2
        assert "takes 1 channels" in capsys.readouterr().err and not (tmp_path / format).exists()
    assert main(["export", checkpoint, "--format", "safetensors", "--output", str(tmp_path / "own")]) == 0
    picture = Image.linear_gradient("L").convert("RGB")
    one, other = (open_predictor(str(path)).encode_image(picture) for path in (checkpoint, tmp_path / "own"))
    assert torch.allclose(one, other, atol=1e-6)
