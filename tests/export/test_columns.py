"""Export of models whose towers read other columns than images and texts: our own format holds them, others say why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import IMAGE, TEXT

from lightning_clip import ClipModule, InputError
from lightning_clip.commands.export import _differences
from lightning_clip.export.export import export
from lightning_clip.variants.geoclip import Coordinates


def places() -> ClipModule:
    """Pictures beside coordinates, without a text tower."""
    towers = {"gps": {"name": "coordinates", "width": 32}}
    objective = {"name": "pairs", "between": ["image", "gps"]}
    return ClipModule(IMAGE, towers=towers, objective=objective, embed_dim=16).eval()


def test_our_own_format_holds_every_column(tmp_path: Path) -> None:
    module = places()
    done = export(module, "safetensors", tmp_path / "out")
    assert done.differences == {"image": 0.0, "gps": 0.0}
    again = ClipModule.from_pretrained(tmp_path / "out")
    degrees = torch.tensor([[48.9, 2.4], [-33.9, 151.2]])
    assert isinstance(again.model.tower("gps"), Coordinates)
    assert torch.equal(again.model.encode("gps", degrees), module.model.encode("gps", degrees))
    card = (tmp_path / "out/README.md").read_text()
    assert "Towers that put image and gps into one space" in card and "| gps tower | Coordinates, 6,336 parameters |" in card


@pytest.mark.parametrize("format", ["open_clip", "huggingface", "onnx", "torch-export"])
def test_other_formats_say_why_not(format: str, tmp_path: Path) -> None:
    expected = (
        f"format '{format}' cannot hold this model exactly: it has towers for image, gps, where other libraries have one for "
        "images and one for texts. Formats that can: safetensors"
    )
    with pytest.raises(InputError, match=expected):
        export(places(), format, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_printed() -> None:
    assert _differences({"text": 1e-7, "image": 0.0}) == "images differ by at most 0.0e+00, texts by 1.0e-07"
    assert _differences({"gps": 0.0, "image": 0.0}) == "images differ by at most 0.0e+00, weights of gps by 0.0e+00"


def test_a_graph_holds_its_own_tower_alone(tmp_path: Path) -> None:
    module = ClipModule(IMAGE, TEXT, embed_dim=16, tokenizer={"name": "clip", "context_length": 24}).eval()
    export(module, "torch-export", tmp_path / "out")
    names = {side: set(torch.export.load(tmp_path / f"out/{side}.pt2").state_dict) for side in ("image", "text")}
    own = {side: {f"encoder.{key}" for key in module.model.tower(side).state_dict()} for side in names}
    assert names["text"] == own["text"] | {"projection.weight"}
    assert names["image"] == own["image"] | {"projection.weight", "mean", "std"}
