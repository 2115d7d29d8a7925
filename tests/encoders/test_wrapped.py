"""Towers of open_clip and transformers by their settings: shapes, tokens, blocks, checkpointing, mappings and mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_clip import InputError
from lightning_clip.encoders import image_encoders, text_encoders

VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
HF_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
HF_VIT |= {"image_size": 32, "patch_size": 16}
TEXT = {"layers": 2, "width": 32, "heads": 2, "vocab_size": 50, "context_length": 16}
HF_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 50}
LAST = {"pool_type": "last", "no_causal_mask": True}
IMAGES: dict[str, dict[str, Any]] = {
    "open_clip": {"name": "open_clip", "embed_dim": 24, "config": VIT},
    "open_clip_timm": {"name": "open_clip", "embed_dim": 24, "config": {"timm_model_name": "resnet10t", "timm_proj": "mlp"}},
    "open_clip_resnet": {
        "name": "open_clip",
        "embed_dim": 24,
        "config": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32},
    },
    "hf": {"name": "hf", "config": {"model_type": "vit", **HF_VIT}, "pooling": "cls"},
    "hf_family": {"name": "hf", "config": {"model_type": "siglip", "vision_config": HF_VIT}},
}
TEXTS: dict[str, dict[str, Any]] = {
    "open_clip": {"name": "open_clip", "embed_dim": 24, "config": {**TEXT, **LAST}},
    "open_clip_cls": {"name": "open_clip", "embed_dim": 24, "config": {**TEXT, "embed_cls": True}},
    "hf": {"name": "hf", "config": {"model_type": "bert", **HF_TEXT}, "pooling": "pooler"},
    "hf_family": {"name": "hf", "config": {"model_type": "siglip", "text_config": {**HF_TEXT, "projection_size": 24}},
                  "pooling": "pooler", "pad_id": 1},
}  # fmt: skip


def gradient(encoder: nn.Module, *inputs: Tensor) -> list[Tensor]:
    encoder.zero_grad()
    encoder(*inputs).square().sum().backward()
    return [value.grad.clone() for value in encoder.parameters() if value.grad is not None]


def contract(encoder: Any, registry: Any, *inputs: Tensor) -> None:
    """What every tower owes."""
    features = encoder(*inputs)
    assert features.shape == (len(inputs[0]), encoder.output_dim) and encoder.blocks()
    again = registry.build(encoder.to_mapping())
    again.load_state_dict(encoder.state_dict())
    encoder.eval(), again.eval()
    assert torch.equal(again(*inputs), encoder(*inputs))
    encoder.train()
    before = gradient(encoder, *inputs)
    encoder.checkpoint_blocks()
    for one, other in zip(before, gradient(encoder, *inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str) -> None:
    encoder = image_encoders.build(IMAGES[kind])
    image = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    if "timm" not in kind and "resnet" not in kind:
        contract(encoder, image_encoders, image)
    assert encoder(image).shape == (2, encoder.output_dim) and encoder.blocks()
    if kind == "open_clip_resnet":
        with pytest.raises(InputError, match="one vector per sample and has no token output"):
            encoder.forward_tokens(image)
    else:
        assert encoder.forward_tokens(image).ndim == 3


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str) -> None:
    encoder = text_encoders.build(TEXTS[kind])
    if "hf" in kind:
        for layer in encoder.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    tokens = torch.randint(2, 50, (3, 8))
    mask = torch.arange(8) < torch.tensor([[8], [5], [3]])
    contract(encoder.float(), text_encoders, tokens, mask)
    assert encoder.forward_tokens(tokens, mask).shape[0] == 3
    encoder.eval()
    longer = torch.cat([tokens, torch.randint(2, 50, (3, 8))], dim=1)
    unseen = torch.cat([mask, torch.zeros(3, 8, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(encoder(longer, unseen), encoder(tokens, mask))  # padding changes nothing


def test_mistakes() -> None:
    with pytest.raises(InputError, match="unknown pooling 'means': did you mean 'mean'"):
        image_encoders.build({**IMAGES["hf"], "pooling": "means"})
    with pytest.raises(InputError, match="open_clip does not build a tower from .*unexpected keyword argument 'widths'"):
        image_encoders.build({"name": "open_clip", "embed_dim": 8, "config": {"widths": 3}})
    with pytest.raises(InputError, match="no Hugging Face image model"):
        image_encoders.build({"name": "hf", "config": {"model_type": "none"}})
    with pytest.raises(InputError, match="either a path .name or folder. or a config"):
        image_encoders.build("hf")
    encoder = text_encoders.build(TEXTS["open_clip"])
    with pytest.raises(InputError, match="tokens of length 17 exceed the text tower's context_length 16"):
        encoder(torch.ones(1, 17, dtype=torch.long), torch.ones(1, 17, dtype=torch.bool))
