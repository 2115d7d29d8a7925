"""The format timm: `timm.create_model` reads the image tower that was written, with the features that it has here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from corners import corners
from export.test_export import CLIP_VIT, clip_module
from PIL import Image
from safetensors import safe_open
from small import IMAGE
from torch import Tensor
from torch.nn.functional import normalize
from torchvision import transforms as v1
from weights.families import pictures
from weights.test_from_transformers import config, transformers_folder

from lightning_clip import ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.export.export import export

TOWERS: dict[str, dict[str, Any]] = {
    "vit": IMAGE,
    "clip_vit": CLIP_VIT,
    "quick_gelu": {**CLIP_VIT, "name": "vit_base_patch16_clip_quickgelu_224"},
    "pooled_vit": {**IMAGE, "global_pool": "avg", "class_token": False, "fc_norm": True},
    "resnet": {"name": "resnet18", "image_size": 32},
    "clip_resnet": {"name": "resnet50_clip", "image_size": 32},
    "convnext": {"name": "convnext_atto", "image_size": 32},
    "swin": {"name": "swin_tiny_patch4_window7_224", "image_size": 56, "window_size": 7, "depths": [1, 1], "num_heads": [2, 4]},
    "mobilenet": {"name": "mobilenetv3_small_050", "image_size": 32},
}


def read(folder: Path, **options: Any) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()


def outputs(model: Any, size: int, channels: int = 3) -> Tensor:
    """Of pictures that are prepared by what timm reads in the folder."""
    settings = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(settings[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found: Tensor = model((pictures(size, 3)[:, :channels].float() / 255 - mean) / std)
    return found


@pytest.mark.parametrize("tower", corners(list(TOWERS), "vit", "clip_vit", "resnet"))
def test_the_same_features(tower: str, tmp_path: Path) -> None:
    """Behind the projection by default, before it with `num_classes=0`, as with timm's own CLIP models."""
    module = clip_module(image_encoder=TOWERS[tower])
    done = export(module, "timm", tmp_path / "out")
    assert done.differences.keys() == {"image"} and done.image_difference <= 1e-6
    image, backbone = module.predictor.encode_image_with_backbone(pictures(module.image_size, 3))
    found = normalize(outputs(read(tmp_path / "out"), module.image_size), dim=-1)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-6)
    before = outputs(read(tmp_path / "out", num_classes=0), module.image_size)
    torch.testing.assert_close(before, backbone, rtol=1e-5, atol=1e-6 * float(backbone.abs().max()))


@pytest.mark.parametrize("side", [33, 36, 41])
def test_a_crop_out_of_more(tmp_path: Path, side: int) -> None:
    """timm resizes to the very pixels from which we cut; open_clip does not know how to."""
    module = clip_module(image_encoder=IMAGE, transform={"resize": "squash", "resize_to": side})
    export(module, "timm", tmp_path / "out")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(read(tmp_path / "out")))
    sizes = {tuple(step.size) for step in prepare.transforms if isinstance(step, v1.Resize | v1.CenterCrop)}
    assert sizes == {(side, side), (32, 32)}
    with pytest.raises(InputError, match=f"no preprocessing that resizes to more .*, as resize_to {side} does"):
        export(module, "open_clip", tmp_path / "other")


def test_what_is_written(tmp_path: Path) -> None:
    """timm's files, its names, our preprocessing; nothing of the texts."""
    transform = {"resize": "squash", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    module = clip_module(image_encoder=IMAGE, transform=transform)
    export(module, "timm", tmp_path / "out")
    content = json.loads((tmp_path / "out/config.json").read_text())
    assert content["architecture"] == "vit_tiny_patch16_224" and content["num_classes"] == module.embed_dim
    settings = content["pretrained_cfg"]
    assert settings["mean"] == [0.5] * 3 and settings["std"] == [0.25] * 3 and settings["interpolation"] == "bilinear"
    assert settings["input_size"] == [3, 32, 32] and (settings["crop_pct"], settings["crop_mode"]) == (1.0, "squash")
    assert not {"url", "hf_hub_id", "license", "tag"} & set(settings)  # those of weights of others
    with safe_open(tmp_path / "out/model.safetensors", "pt") as stored:
        assert {"pos_embed", "head.weight"} <= set(stored.keys()) and not any("text" in key for key in stored.keys())  # noqa: SIM118
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(read(tmp_path / "out")))
    assert prepare(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n") and "image-feature-extraction" in card
    assert "| image tower |" in card and "| text tower |" not in card and "The image tower of those" in card


def test_heads_that_timm_has_no_place_for(tmp_path: Path) -> None:
    """The features are those before the head, and the card says so."""
    module = clip_module(image_encoder=IMAGE, projection={"image": "mlp", "text": "linear"})
    export(module, "timm", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["num_classes"] == 0
    _, backbone = module.predictor.encode_image_with_backbone(pictures(32, 3))
    torch.testing.assert_close(outputs(read(tmp_path / "out"), 32), backbone, rtol=1e-5, atol=1e-6)
    assert "a MlpProjection, has no place in timm" in (tmp_path / "out/README.md").read_text()


def test_a_bias_of_the_projection(tmp_path: Path) -> None:
    module = clip_module(image_encoder=IMAGE, projection={"name": "linear", "bias": True})
    torch.nn.init.normal_(module.model.head("image").bias)  # type: ignore[arg-type]
    export(module, "timm", tmp_path / "out")
    found = normalize(outputs(read(tmp_path / "out"), 32), dim=-1)
    torch.testing.assert_close(found, module.encode_image(pictures(32, 3)), rtol=0, atol=1e-6)


def test_grey_pictures(tmp_path: Path) -> None:
    module = clip_module(image_encoder={**IMAGE, "in_chans": 1}, transform={"channels": 1, "mean": [0.5], "std": [0.2]})
    export(module, "timm", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]["input_size"] == [1, 32, 32]
    found = normalize(outputs(read(tmp_path / "out"), 32, channels=1), dim=-1)
    expected = module.predictor.encode_image(pictures(32, 3)[:, :1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_siglip_of_transformers(tmp_path: Path) -> None:
    """Whose image tower timm has, under other names."""
    transformers_folder(tmp_path / "in", *config("siglip"))
    module = ClipModule.from_pretrained(tmp_path / "in")
    export(module, "timm", tmp_path / "out")
    found = normalize(outputs(read(tmp_path / "out"), module.image_size), dim=-1)
    torch.testing.assert_close(found, module.encode_image(pictures(module.image_size, 3)), rtol=0, atol=1e-6)


def test_towers_that_timm_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="cannot hold this model exactly: its image tower is a SmallConvEncoder, and timm holds"
    ):
        export(clip_module(image_encoder="small_conv"), "timm", tmp_path / "out")
    with pytest.raises(InputError, match="timm has no preprocessing like resize 'pad'"):
        export(clip_module(image_encoder=IMAGE, transform={"resize": "pad"}), "timm", tmp_path / "out")
    with pytest.raises(InputError) as refused:  # timm's is no way out for a whole model
        export(clip_module(image_encoder=IMAGE), "huggingface", tmp_path / "out")
    assert "Formats that can: onnx, " in str(refused.value) and "timm," not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(clip_module(image_encoder=IMAGE), "safetensors", tmp_path / "in")
    assert main(["export", str(tmp_path / "in"), "--format", "timm", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "read back: images differ by at most " in printed and "texts" not in printed
    small = tmp_path / "small"
    export(clip_module(image_encoder="small_conv"), "safetensors", small)
    capsys.readouterr()
    assert main(["export", str(small), "--format", "timm", "--output", str(tmp_path / "no")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "timm holds its own alone. Formats that can: " in said
