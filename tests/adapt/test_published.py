"""Adapters, locks and rates on towers of other libraries: every adapter has a gradient, small checkpoints find their folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from corners import corners
from small import small_trainer
from torch import Tensor
from weights.families import CAPTIONS, pictures, transformers_folder
from weights.test_from_open_clip import written
from weights.test_from_transformers import config

from lightning_clip import ClipModule
from lightning_clip.merging import merged

BOTH = {"image": {"lora": {"rank": 2}}, "text": {"lora": {"rank": 2}}}
KINDS = ["hf-clip", "hf-clip_odd", "hf-siglip", "hf-chinese_clip", "hf-altclip", "hf-dual"]
KINDS += [f"open_clip-{kind}" for kind in ("clip", "coca", "siglip", "timm", "pooled")]


def source(folder: Path, kind: str) -> str:
    library, _, name = kind.partition("-")
    if library == "hf":
        transformers_folder(folder, *config(name))
        return f"hf:{folder}"
    written(folder, name)
    return str(folder)


def features(module: ClipModule) -> tuple[Tensor, Tensor]:
    return module.encode_image(pictures(module.image_size)), module.encode_text(CAPTIONS)


def same(first: ClipModule, second: ClipModule, tolerance: float) -> None:
    for a, b in zip(features(first), features(second), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", corners(KINDS, "hf-clip", "open_clip-siglip"))
def test_adapters(kind: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = source(tmp_path / "base", kind)
    module = ClipModule(pretrained=base, training={"adapt": BOTH}).eval()
    same(module, ClipModule(pretrained=base).eval(), 1e-6)
    adapters = {name: value for name, value in module.named_parameters() if ".lora_" in name}
    assert {name.split(".")[1] for name in adapters} == {"image_encoder", "text_encoder"}
    torch.manual_seed(0)
    for name, value in adapters.items():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.1)
    tokens, mask = module.tokenizer(CAPTIONS)
    output = module.model(pictures(module.image_size), tokens, mask)
    weights = torch.randn_like(output.image_features), torch.randn_like(output.text_features)
    ((output.image_features * weights[0]).sum() + (output.text_features * weights[1]).sum()).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in adapters.values())
    trainer = small_trainer(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "lora.ckpt")
    same(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt", weights_only=True), module, 0)
    same(merged(module), module, 1e-5)


@pytest.mark.parametrize("kind", corners(KINDS, "hf-dual", "open_clip-timm"))
def test_locks_and_rates(kind: str, tmp_path: Path) -> None:
    tower = {"lock": True, "unlock_last": 1, "lr": 1e-4, "layer_decay": 0.5}
    module = ClipModule(pretrained=source(tmp_path, kind), training={"adapt": {"image": tower, "text": tower}})
    module.configure_model()
    rates = module.adaptation.rates(module.training_settings.optimizer, set())
    assert rates is not None
    for encoder, name in ((module.model.image_encoder, "image_encoder"), (module.model.text_encoder, "text_encoder")):
        last = {id(value) for value in encoder.blocks()[-1].parameters()}
        first = {id(value) for value in encoder.blocks()[0].parameters()}
        assert all(not value.requires_grad for value in encoder.parameters() if id(value) in first)
        named = {key: value for key, value in encoder.named_parameters() if id(value) in last}
        assert all(value.requires_grad for value in named.values())
        assert {rates[f"{name}.{key}"].lr for key in named} == {1e-4 * 0.5}
