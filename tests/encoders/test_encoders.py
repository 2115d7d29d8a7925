"""The contract of encoders: every one by name gives shapes, gradients, tokens and itself again from a mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT

from lightning_clip import InputError
from lightning_clip.encoders import image_encoders, text_encoders
from lightning_clip.encoders.huggingface import POOLINGS

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IMAGES: list[dict[str, Any]] = [
    IMAGE,
    {"name": "resnet10t", "image_size": 64},
    {"name": "convnext_atto", "image_size": 64, "depths": [1, 1, 1, 1]},
    {"name": "resnet50_clip", "image_size": 64},
    {"name": "small_conv", "image_size": 32, "widths": [16, 24], "depth": 3, "stem_width": 8},
]
TEXTS: list[dict[str, Any]] = [
    {**TEXT, "vocab_size": 60},
    *({"name": "hf", "config": BERT, "pooling": pooling} for pooling in POOLINGS),
]


@pytest.mark.parametrize("spec", IMAGES, ids=lambda spec: spec["name"])
class TestImageContract:
    def test_shape_gradient_and_tokens(self, spec: dict[str, Any]) -> None:
        encoder = image_encoders.build(spec)
        size = encoder.image_size
        images = torch.randn(2, 3, size, size)
        features = encoder(images)
        assert features.shape == (2, encoder.output_dim) and size == spec["image_size"]
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())
        assert encoder.forward_tokens(images).ndim == 3
        assert len(encoder.blocks()) >= 1

    def test_mapping_builds_it_again(self, spec: dict[str, Any]) -> None:
        encoder = image_encoders.build(spec).eval()
        again = image_encoders.build(encoder.to_mapping()).eval()
        again.load_state_dict(encoder.state_dict())
        images = torch.randn(2, 3, encoder.image_size, encoder.image_size)
        torch.testing.assert_close(again(images), encoder(images))


@pytest.mark.parametrize("spec", TEXTS, ids=lambda spec: f"{spec['name']}-{spec.get('pooling', '')}")
class TestTextContract:
    def test_shape_gradient_and_tokens(self, spec: dict[str, Any]) -> None:
        encoder = text_encoders.build(spec)
        tokens, mask = torch.randint(1, 60, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
        features = encoder(tokens, mask)
        assert features.shape == (2, encoder.output_dim)
        features.sum().backward()
        assert encoder.forward_tokens(tokens, mask).shape == (2, 8, encoder.output_dim)
        assert len(encoder.blocks()) == (1 if spec["name"] == "clip_text" else 2)

    def test_padding_is_ignored(self, spec: dict[str, Any]) -> None:
        encoder = text_encoders.build(spec).eval()
        short = torch.randint(1, 60, (2, 5))
        padded = torch.cat([short, torch.zeros(2, 3, dtype=torch.long)], dim=1)
        mask = torch.arange(8).expand(2, 8) < 5
        expected = encoder(short, torch.ones(2, 5, dtype=torch.bool))
        torch.testing.assert_close(encoder(padded, mask), expected, rtol=1e-5, atol=1e-5)

    def test_mapping_builds_it_again(self, spec: dict[str, Any]) -> None:
        encoder = text_encoders.build(spec).eval()
        again = text_encoders.build(encoder.to_mapping()).eval()
        again.load_state_dict(encoder.state_dict())
        tokens, mask = torch.randint(1, 60, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
        torch.testing.assert_close(again(tokens, mask), encoder(tokens, mask))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "lcnet_035", "inception_next_atto", "resnet10t"])
def test_width_behind_a_hidden_head(name: str) -> None:
    """Some of timm's networks have a layer after their pooling, and features of another width than their last map."""
    encoder = image_encoders.build({"name": name, "image_size": 64}).eval()
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.output_dim)


def test_small_conv_is_its_layers_by_hand() -> None:
    encoder = image_encoders.build({"name": "small_conv", "image_size": 8, "widths": [6], "stem_width": 4}).double().eval()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weights = list(encoder.state_dict().values())
    found = image
    for place, (stride, pooled) in enumerate([(2, False), (1, True), (1, False)]):
        kernel, *norm = weights[6 * place : 6 * place + 5]
        found = torch.nn.functional.conv2d(found, kernel, stride=stride, padding=1)
        found = found.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)) if pooled else found
        gain, shift, mean, variance = (value.view(1, -1, 1, 1) for value in norm)
        found = gain * (found - mean) / (variance + 1e-5).sqrt() + shift
        found = found * (1 + torch.erf(found / 2**0.5)) / 2
    assert (encoder(image) - found.mean(dim=(2, 3))).abs().max() <= 1e-12
    features, tokens = encoder.forward_both(image)
    assert torch.equal(features, encoder(image)) and torch.equal(tokens, encoder.forward_tokens(image))
    assert (tokens - found.flatten(2).mT).abs().max() <= 1e-12


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [5.0], [3.0], [99.0]]])
    mask = torch.tensor([[True, True, True, False]])
    found = {name: pooling(hidden, mask).item() for name, pooling in POOLINGS.items()}
    assert found == {"mean": 3.0, "cls": 1.0, "eot": 3.0, "max": 5.0}


def test_hugging_face_folder(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    settings = {key: value for key, value in BERT.items() if key != "model_type"}
    model = AutoModel.from_config(AutoConfig.for_model("bert", **settings)).eval()
    model.save_pretrained(tmp_path)
    encoder = text_encoders.build({"name": f"hf:{tmp_path}", "pooling": "cls"}).eval()
    tokens, mask = torch.randint(1, 60, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
    expected = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(tokens, mask), expected)
    random = text_encoders.build({"name": f"hf:{tmp_path}", "pooling": "cls", "pretrained": False}).eval()
    assert not torch.allclose(random(tokens, mask), expected)


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"image_size": 16}, r"widths \[64, 128, 256, 256\] with stride 2 need .* 32 px or more, not image_size 16"),
            ({"widths": []}, "need at least one stage"),
            ({"depth": 0}, "'small_conv': depth 0 must be"),
            ({"widths": [8, -8]}, r"'small_conv': widths\[1\] -8 must be"),
            ({"stride": 0}, "'small_conv': stride 0 must be"),
        ],
    )
    def test_sizes_of_small_conv(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            image_encoders.build({"name": "small_conv", **settings})

    def test_unknown_image_encoder(self) -> None:
        with pytest.raises(
            InputError, match="unknown image encoder 'vit_tiny_patch16_225'.*did you mean 'vit_tiny_patch16_224'"
        ):
            image_encoders.build("vit_tiny_patch16_225")

    def test_option_that_timm_does_not_take(self) -> None:
        with pytest.raises(InputError, match="timm's 'vit_tiny_patch16_224' does not take these options"):
            image_encoders.build({"name": "vit_tiny_patch16_224", "colour": "red"})

    def test_unknown_text_encoder(self) -> None:
        with pytest.raises(InputError, match="unknown text encoder 'clip_text_smal': did you mean 'clip_text_small'"):
            text_encoders.build("clip_text_smal")

    @pytest.mark.parametrize(("name", "value"), [("heads", -2), ("heads", 0), ("width", -32), ("layers", 0)])
    def test_sizes_of_a_text_tower(self, name: str, value: int) -> None:
        settings = {"width": 32, "layers": 1, "heads": 2, name: value}
        with pytest.raises(InputError, match=rf"text {name} {value} must be a whole number >= 1"):
            text_encoders.build({"name": "clip_text", **settings})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("num_heads", -2), ("depth", 0), ("patch_size", 0), ("patch_size", [16, -16]), ("embed_dim", -32), ("image_size", 0)],
    )
    def test_sizes_of_an_image_tower(self, name: str, value: Any) -> None:
        wrong = value[-1] if isinstance(value, list) else value
        with pytest.raises(InputError, match=rf"image encoder 'vit_tiny_patch16_224': {name} {wrong} must be a number > 0"):
            image_encoders.build({"name": "vit_tiny_patch16_224", "image_size": 32, name: value})

    def test_width_and_heads(self) -> None:
        with pytest.raises(InputError, match="text width 30 is not a multiple of heads 4"):
            text_encoders.build({"name": "clip_text", "width": 30, "heads": 4})

    def test_unknown_pooling(self) -> None:
        with pytest.raises(InputError, match="unknown pooling 'means': did you mean 'mean'"):
            text_encoders.build({"name": "hf", "config": BERT, "pooling": "means"})

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no Hugging Face text model.*a folder written by save_pretrained"):
            text_encoders.build(f"hf:{tmp_path}")

    def test_path_and_config(self) -> None:
        with pytest.raises(InputError, match="either a path .* or a config"):
            text_encoders.build({"name": "hf", "path": "x", "config": BERT})
