"""Adapters: where they go, what is trained and stored, the base that is found again or asked for, merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.test_locking import BERT, assert_near
from corners import corners
from small import IMAGE, TEXT, arguments_of, small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER, alone, fit
from torch import Tensor, nn

from lightning_clip import ClipModule, InputError
from lightning_clip.adapt import AdaptSettings
from lightning_clip.adapt import lora as room
from lightning_clip.adapt.lora import layers_to_adapt
from lightning_clip.adapt.towers import LoraSettings
from lightning_clip.cli import main
from lightning_clip.encoders import image_encoders, text_encoders
from lightning_clip.merging import merged

LORA = {"rank": 2}
BOTH = {"image": {"lora": LORA}, "text": {"lora": LORA}}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of two steps of ordinary training."""
    torch.manual_seed(1)
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(small_module(optimizer=OPTIMIZER), small_data(size=32))
    trainer.save_checkpoint(tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


def adapted(base: Path | None, folder: Path, adapt: Any = None, steps: int = 3, **settings: Any) -> ClipModule:
    torch.manual_seed(2)
    options = {"optimizer": OPTIMIZER, "adapt": BOTH if adapt is None else adapt, **settings}
    module = small_module(**options) if base is None else ClipModule(pretrained=str(base), **arguments_of(**options))
    trainer = small_trainer(folder, max_steps=steps)
    trainer.fit(module, small_data(size=32))
    trainer.save_checkpoint(folder / "lora.ckpt")
    return module.eval()


def features(module: ClipModule) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    return module.encode_image(images), module.encode_text(["a red circle", "two blue squares and a star"])


def assert_same_features(first: ClipModule, second: ClipModule, tolerance: float = 1e-5) -> None:
    for a, b in zip(features(first), features(second), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


class TestWhere:
    @pytest.mark.parametrize(
        ("registry", "spec", "names"),
        [
            (image_encoders, IMAGE, {"qkv", "proj"}),
            (text_encoders, {**TEXT, "vocab_size": 60}, {"qkv", "proj"}),
            (text_encoders, {"name": "hf", "config": BERT}, {"query", "key", "value", "dense"}),
            (image_encoders, {"name": "convnext_tiny", "image_size": 64, "depths": [1] * 4, "dims": [8] * 4}, {"fc1", "fc2"}),
        ],
        ids=["vit", "clip_text", "bert", "convnext"],
    )
    def test_by_default(self, registry: Any, spec: dict[str, Any], names: set[str]) -> None:
        """Attention's linear layers; not the stem, whose layer is called proj, too."""
        encoder = registry.build(spec)
        found = layers_to_adapt(encoder, LoraSettings())
        assert {name.rpartition(".")[2] for name in found} == names
        assert not any("patch_embed" in name or "intermediate" in name for name in found)

    def test_t5(self) -> None:
        config = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
        try:
            encoder = text_encoders.build({"name": "hf", "config": {**config, "is_encoder_decoder": False}})
        except Exception:
            pytest.skip("this transformers builds no T5 without a decoder")
        assert {name.rpartition(".")[2] for name in layers_to_adapt(encoder, LoraSettings())} >= {"q", "k", "v", "o"}

    def test_named_by_more_than_the_last_name(self) -> None:
        encoder = image_encoders.build(IMAGE)
        assert layers_to_adapt(encoder, LoraSettings(targets=("mlp.fc1",))) == ["model.blocks.0.mlp.fc1"]

    def test_unknown_target(self) -> None:
        with pytest.raises(
            InputError,
            match=r"adapt.image.lora.targets: no layer of TimmImageEncoder is called 'qvk': did you mean 'qkv'\? Known",
        ):
            small_module(adapt={"image": {"lora": {"targets": ["qvk"]}}}).configure_model()

    def test_no_linear_layers(self) -> None:
        module = small_module(image_encoder={"name": "resnet10t", "image_size": 32}, adapt={"image": {"lora": {}}})
        with pytest.raises(InputError, match=r"have no linear layers; name others as targets, of .*conv1, conv2"):
            module.configure_model()

    def test_convolutions_that_are_named(self) -> None:
        lora = {"lora": {"rank": 2, "targets": ["conv1", "conv2"]}}
        module = small_module(image_encoder={"name": "resnet10t", "image_size": 32}, adapt={"image": lora})
        module.configure_model()
        assert not any(layer.training for layer in module.model.image_encoder.modules() if isinstance(layer, nn.BatchNorm2d))

    def test_convolutions_of_groups(self) -> None:
        spec = {"name": "convnext_atto", "image_size": 32, "depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]}
        with pytest.raises(InputError, match=r"is a convolution in groups, .*: leave out 'conv_dw'"):
            small_module(image_encoder=spec, adapt={"image": {"lora": {**LORA, "targets": ["conv_dw"]}}}).configure_model()

    def test_without_peft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r'adapt.image.lora needs peft, .*pip install "lightning-clip\[adapt\]"'):
            small_module(adapt=BOTH).configure_model()


class TestTraining:
    def test_begins_where_the_base_was(self, base: Path) -> None:
        assert_same_features(ClipModule(pretrained=str(base), training={"adapt": BOTH}), ClipModule(pretrained=str(base)), 1e-6)

    def test_only_adapters_and_heads_change(self, base: Path, tmp_path: Path) -> None:
        module = adapted(base, tmp_path)
        before = ClipModule(pretrained=str(base))
        before.configure_model()
        plain = {name.replace(".base_layer", ""): value for name, value in module.state_dict().items()}
        for name, value in before.state_dict().items():
            assert torch.equal(plain[name], value) == ("encoder" in name or name in ("model.mean", "model.std")), name
        trained = sum(value.numel() for value in module.parameters() if value.requires_grad)
        assert trained < 0.05 * sum(value.numel() for value in module.parameters())

    @pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "ddp"))
    def test_on_ranks(self, base: Path, tmp_path: Path, strategy: str) -> None:
        expected = alone(tmp_path, adapt=BOTH)
        assert_near(fit(tmp_path, strategy=strategy, adapt=BOTH)["weights"], expected)

    @pytest.mark.slow  # quicker: test_on_ranks, and test_locking.py resumes on ranks
    @pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "clip_fsdp2"))
    def test_resumes_on_ranks(self, tmp_path: Path, strategy: str) -> None:
        whole = alone(tmp_path, adapt=BOTH)
        fit(tmp_path, strategy=strategy, adapt=BOTH, max_steps=2, save=tmp_path / "half.ckpt")
        assert_near(fit(tmp_path, strategy=strategy, adapt=BOTH, resume=tmp_path / "half.ckpt")["weights"], whole)

    def test_without_memory(self) -> None:
        module = small_module(adapt=BOTH)
        with torch.device("meta"):
            module.configure_model()
        assert all(value.is_meta for value in module.parameters())


class TestCheckpoint:
    def test_is_small_and_loads_with_no_arguments(self, base: Path, tmp_path: Path) -> None:
        module = adapted(base, tmp_path)
        assert (tmp_path / "lora.ckpt").stat().st_size < 0.05 * base.stat().st_size
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt", weights_only=True), module, 0)

    def test_resumes(self, base: Path, tmp_path: Path) -> None:
        whole = adapted(base, tmp_path, steps=5)
        adapted(base, tmp_path, steps=2)
        torch.manual_seed(5)
        again = ClipModule(pretrained=str(base), training={"optimizer": OPTIMIZER, "adapt": BOTH})
        trainer = small_trainer(tmp_path, max_steps=5)
        trainer.fit(again, small_data(size=32), ckpt_path=tmp_path / "lora.ckpt", weights_only=True)
        assert_same_features(again, whole, 0)

    def test_base_that_has_changed(self, base: Path, tmp_path: Path) -> None:
        adapted(base, tmp_path)
        content = torch.load(base, weights_only=True)
        content["state_dict"]["model.text_encoder.token_embedding.weight"][5] += 1
        torch.save(content, base)
        with pytest.raises(
            InputError, match=r"only what was trained \(adapt.store\) on top of those of '.*base.ckpt', and the"
        ):
            ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt")

    def test_base_that_has_gone_and_is_named_again(self, base: Path, tmp_path: Path) -> None:
        module = adapted(base, tmp_path)
        moved = base.rename(tmp_path / "moved.ckpt")
        with pytest.raises(InputError, match=r"lora.ckpt' holds only .*base.ckpt', which is not there: .* --pretrained"):
            ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt")
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt", pretrained=str(moved)), module, 0)

    def test_between_the_base_and_its_adapters(self, base: Path, tmp_path: Path) -> None:
        module = adapted(base, tmp_path)
        ends = [str(base), str(tmp_path / "lora.ckpt"), "--alpha", "1", "--output", str(tmp_path / "mixed.ckpt")]
        assert main(["interpolate", *ends]) == 0
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "mixed.ckpt"), module)

    def test_base_without_a_name(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        torch.manual_seed(2)
        start = small_module(optimizer=OPTIMIZER)
        trainer = small_trainer(tmp_path, max_steps=1)
        trainer.strategy.connect(start)
        start.configure_model()
        trainer.save_checkpoint(tmp_path / "start.ckpt")
        module = adapted(None, tmp_path)
        assert "have no name: keep them" in caplog.text
        with pytest.raises(
            InputError, match=r"weights without a name, .* load_from_checkpoint\(path, pretrained='BASE.ckpt'\)"
        ):
            ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt")
        loaded = ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt", pretrained=str(tmp_path / "start.ckpt"))
        assert_same_features(loaded, module, 0)

    def test_whole_if_asked_for(self, tmp_path: Path) -> None:
        module = adapted(None, tmp_path, {**BOTH, "store": "full"})
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt"), module, 0)

    def test_trained_alone_without_adapters(self, base: Path, tmp_path: Path) -> None:
        locked = {"image": {"lock": True}, "text": {"lock": True}, "store": "trained"}
        module = adapted(base, tmp_path, locked)
        assert (tmp_path / "lora.ckpt").stat().st_size < 0.05 * base.stat().st_size
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt"), module, 0)

    def test_a_new_tower_beside_the_base_is_stored(self, base: Path, tmp_path: Path) -> None:
        text = {"name": "clip_text", "width": 16, "layers": 1, "heads": 2}
        tokenizer = {"name": "clip", "context_length": 24}
        module = adapted(base, tmp_path, {"image": {"lora": LORA}}, text_encoder=text, tokenizer=tokenizer)
        assert_same_features(ClipModule.load_from_checkpoint(tmp_path / "lora.ckpt"), module, 0)
        noted = torch.load(tmp_path / "lora.ckpt", weights_only=True)["state_dict"]
        assert "model.text_encoder.token_embedding.weight" in noted and "model.image_encoder.model.pos_embed" not in noted

    def test_pretrained_for_a_whole_one(self, base: Path) -> None:
        with pytest.raises(InputError, match="base.ckpt' holds all of its weights: load it without pretrained"):
            ClipModule.load_from_checkpoint(base, pretrained=str(base))

    def test_as_a_base_itself(self, base: Path, tmp_path: Path) -> None:
        adapted(base, tmp_path)
        with pytest.raises(InputError, match=r"make whole weights of it with lightning-clip checkpoint merge .*lora.ckpt"):
            ClipModule(pretrained=str(tmp_path / "lora.ckpt"))

    def test_in_parts(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="writes checkpoints in parts, .* set adapt.store to full"):
            fit(tmp_path, strategy={"sharded_checkpoint": True}, adapt=BOTH, max_steps=1)


class TestMerging:
    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_same_features(self, base: Path, tmp_path: Path, dropout: float) -> None:
        adapt = {tower: {"lora": {**LORA, "dropout": dropout}} for tower in ("image", "text")}
        module = adapted(base, tmp_path, adapt)
        before = features(module)
        whole = merged(module)
        assert_same_features(whole, module)
        assert not any("lora" in name or "base_layer" in name for name in whole.state_dict())
        for first, second in zip(before, features(module), strict=True):  # the original is as it was
            assert torch.equal(first, second)

    def test_is_an_ordinary_module(self, base: Path, tmp_path: Path) -> None:
        whole = merged(adapted(base, tmp_path))
        assert whole.training_settings.adapt == AdaptSettings() and "pretrained" not in whole.to_mapping()
        assert all(parameter.requires_grad for parameter in whole.parameters())
        small_trainer(tmp_path, max_steps=1).fit(whole.train(), small_data(size=32))

    def test_bert(self, tmp_path: Path) -> None:
        module = adapted(None, tmp_path, {"text": {"lora": LORA}}, text_encoder={"name": "hf", "config": BERT})
        whole = merged(module)
        assert_same_features(whole, module)
        frozen = {name for name, value in whole.named_parameters() if not value.requires_grad}
        assert frozen and all("pooler" in name for name in frozen)  # as it is without adapters

    def test_command(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        module = adapted(base, tmp_path)
        assert main(["checkpoint", "merge", str(tmp_path / "lora.ckpt"), str(tmp_path / "whole.ckpt")]) == 0
        assert "weights alone, without optimizer, step 3" in capsys.readouterr().out
        base.unlink()
        whole = ClipModule.load_from_checkpoint(tmp_path / "whole.ckpt", weights_only=True)
        assert_same_features(whole, module)
        assert_same_features(ClipModule(pretrained=str(tmp_path / "whole.ckpt")), module)

    def test_command_on_what_was_trained_alone(self, base: Path, tmp_path: Path) -> None:
        """What is said of such a checkpoint where weights are to begin a run, done."""
        module = adapted(base, tmp_path, {"image": {"lock": True}, "store": "trained"})
        with pytest.raises(InputError, match="make whole weights of it with lightning-clip checkpoint merge"):
            ClipModule.from_pretrained(str(tmp_path / "lora.ckpt"))
        assert main(["checkpoint", "merge", str(tmp_path / "lora.ckpt"), str(tmp_path / "whole.ckpt")]) == 0
        assert_same_features(ClipModule.from_pretrained(str(tmp_path / "whole.ckpt")), module, 0)

    def test_command_refuses(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["checkpoint", "merge", str(base), str(tmp_path / "whole.ckpt")]) == 2
        assert "has no adapters" in capsys.readouterr().err
        assert main(["checkpoint", "merge", str(base), str(base)]) == 2
        assert "exists and is never replaced" in capsys.readouterr().err
