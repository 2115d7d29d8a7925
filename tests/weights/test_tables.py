"""Tables of names and settings read both ways: what goes out and comes back is the same, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_clip import InputError
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.encoders import ClipTextTransformer, OpenClipTextEncoder, image_encoders
from lightning_clip.weights import clip, open_clip_inputs, siglip, transformers_inputs
from lightning_clip.weights.rules import Rule, SettingsTable, to_ours, to_theirs

SIZES = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "heads": 3, "hidden": 100}
SIGLIP: dict[str, Any] = {"name": "vit_base_patch16_siglip_224", "image_size": 32, "patch_size": 8, "embed_dim": 32}
SIGLIP |= {"depth": 2, "num_heads": 2}
TEXT: dict[str, Any] = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "vocab_size": 50,
    "context_length": 16,
    "no_causal_mask": True,
    "pool_type": "last",
}


def vit(prefix: str = "image_encoder.") -> dict[str, Tensor]:
    return named(image_encoders.build(clip.timm_vit(**SIZES, quick_gelu=True)), prefix)


def named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = module.state_dict()
    return {prefix + key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def resnet() -> dict[str, Tensor]:
    found = named(image_encoders.build({"name": "resnet50_clip", "image_size": 224}), "image_encoder.")
    return found | named(nn.Linear(8, 8), "image_projection.")


def text() -> dict[str, Tensor]:
    return named(ClipTextTransformer(width=32, layers=2, heads=2, vocab_size=50, context_length=16), "text_encoder.")


def siglip_text() -> dict[str, Tensor]:
    encoder = OpenClipTextEncoder(24, TEXT)
    return named(encoder, "text_encoder.") | named(nn.Linear(32, 24), "text_projection.")


TABLES: dict[str, tuple[list[Rule], Any]] = {
    "open_clip vit": (clip.open_clip_vit(2), vit),
    "open_clip resnet": (clip.open_clip_resnet((3, 4, 6, 3)), resnet),
    "open_clip text": (clip.open_clip_text(2), text),
    "open_clip text below a prefix": (clip.open_clip_text(2, "text."), text),
    "transformers vit": (clip.transformers_vit(2), vit),
    "transformers text": (clip.transformers_text(2), text),
    "siglip images": (siglip.image_rules(2), lambda: named(image_encoders.build(SIGLIP), "image_encoder.")),
    "siglip texts": (siglip.text_rules(2), siglip_text),
}


@pytest.mark.parametrize("name", TABLES)
def test_weights_out_and_in(name: str) -> None:
    """Every weight of the tower is named, and no two become one."""
    rules, weights = TABLES[name][0], TABLES[name][1]()
    theirs = to_theirs(rules, weights)
    again = to_ours(rules, theirs, name)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], value) for key, value in weights.items())
    assert sum(value.numel() for value in theirs.values()) == sum(value.numel() for value in weights.values())


def test_what_is_missing_is_named() -> None:
    theirs = to_theirs(clip.open_clip_text(2), text())
    del theirs["ln_final.bias"]
    with pytest.raises(InputError, match="'here' lacks 1 weights: ln_final.bias. Is it complete, and of this architecture"):
        to_ours(clip.open_clip_text(2), theirs, "here")


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("table", [clip.TRANSFORMERS_VIT, clip.TRANSFORMERS_TEXT], ids=["vit", "text"])
def test_settings_out_and_in(table: SettingsTable, quick_gelu: bool) -> None:
    ours = {own: number for number, own in enumerate(table.names)} | {"quick_gelu": quick_gelu}
    theirs = table.to_theirs(ours)
    assert table.to_ours(theirs) == ours and table.holds(theirs)
    assert not table.holds({**theirs, "hidden_act": "relu"}) and not table.holds({**theirs, "layer_norm_eps": 1e-6})


@pytest.mark.parametrize("hidden", [64, 192, 100, 77])
def test_open_clip_counts_in_ratios(hidden: int) -> None:
    sizes = {**SIZES, "hidden": hidden}
    settings = clip.open_clip_vit_settings(sizes)
    assert settings["head_width"] == 16 and clip.open_clip_vit_sizes(settings) == sizes


@pytest.mark.parametrize("act", [{}, {"act_kwargs": {"approximate": "tanh"}}], ids=["gelu", "tanh"])
def test_siglip_texts_there_and_back(act: dict[str, Any]) -> None:
    from lightning_clip.encoders import HuggingFaceTextEncoder

    norm = {"norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3.5, "proj_bias": True}
    settings = {**TEXT, **norm, **act}
    theirs = siglip.transformers_text_settings(OpenClipTextEncoder(24, settings))
    assert theirs is not None and theirs["intermediate_size"] == 112
    config = {"model_type": "siglip", "text_config": {**theirs, "projection_size": 24}}
    again = siglip.open_clip_text_settings(HuggingFaceTextEncoder(config=config, pooling="pooler", pad_id=0))
    assert again == settings


@pytest.mark.parametrize("resize", ["crop", "pad", "squash", "floor_crop"])
def test_preprocessing_there_and_back(resize: str) -> None:
    settings = ImageTransformSettings(resize=resize, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    found = open_clip_inputs.read_transform(open_clip_inputs.write_transform(settings, 32))
    again = ImageTransformSettings.of(found)
    # open_clip has one word for both crops, which differ by a pixel.
    assert again.resize == {"floor_crop": "crop"}.get(resize, resize)
    assert (again.interpolation, again.mean, again.std) == ("bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("resize", ["floor_crop", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_processors_there_and_back(resize: str, interpolation: str, tmp_path: Path) -> None:
    settings = ImageTransformSettings(resize=resize, interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    transformers_inputs.write_processor(settings, 32).save_pretrained(tmp_path)
    again = ImageTransformSettings.of(transformers_inputs.read_transform(str(tmp_path), "here"))
    assert (again.resize, again.interpolation, again.mean, again.std) == (resize, interpolation, settings.mean, settings.std)
