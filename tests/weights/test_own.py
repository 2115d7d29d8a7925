"""`pretrained` with checkpoints of ours: same features, settings from the source, mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, save_checkpoint, small_data, small_module, small_trainer
from strategies.ranks import alone, assert_same, fit

from lightning_clip import ClipModule, InputError
from lightning_clip.tasks import ClassifierModule
from lightning_clip.variants.convirt import ConvirtModule


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by a Trainer, with settings that are not the defaults."""
    folder = tmp_path_factory.mktemp("own")
    module = small_module(
        loss={"name": "sigmoid", "initial_bias": -3.0}, transform={"resize": "squash", "mean": [0.5, 0.5, 0.5]}
    )
    trainer = small_trainer(folder, max_steps=2)
    trainer.fit(module, small_data(size=32))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_start_from_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    expected = ClipModule.load_from_checkpoint(checkpoint)
    module = ClipModule(pretrained=str(checkpoint), training={"optimizer": {"lr": 0.5}})
    module.configure_model()
    assert module.training_settings.optimizer.lr == 0.5 and module.to_mapping()["objective"]["loss"]["name"] == "sigmoid"
    assert module.transform_settings == expected.transform_settings and module.embed_dim == 16
    assert module.tokenizer.to_mapping() == expected.tokenizer.to_mapping()
    for key, value in expected.model.state_dict().items():
        assert torch.equal(value, module.model.state_dict()[key]), key
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(module, small_data(size=32))
    trainer.save_checkpoint(tmp_path / "next.ckpt")
    assert "pretrained" not in torch.load(tmp_path / "next.ckpt", weights_only=True)["hyper_parameters"]
    again = ClipModule.load_from_checkpoint(tmp_path / "next.ckpt")
    assert torch.equal(again.encode_text(["a dog"]), module.eval().encode_text(["a dog"]))


def test_from_pretrained_and_overrides(checkpoint: Path) -> None:
    module = ClipModule.from_pretrained(
        checkpoint, objective="softmax", towers={"image": {"transform": {"crop_scale": [0.5, 1.0]}}}
    )
    assert not module.training and module.transform_settings.resize == "squash"
    assert module.transform_settings.crop_scale == (0.5, 1.0) and module.to_mapping()["objective"]["loss"]["name"] == "softmax"


def test_other_sizes(checkpoint: Path) -> None:
    module = ClipModule.from_pretrained(checkpoint, image_size=64, context_length=12)
    assert module.image_size == 64 and module.tokenizer.context_length == module.model.text_encoder.context_length == 12
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert module.encode_image(images).shape == (2, 16)
    expected = ClipModule.load_from_checkpoint(checkpoint)
    assert torch.allclose(module.encode_text(["a dog"]), expected.encode_text(["a dog"]), atol=1e-6)


def test_a_new_tower(checkpoint: Path) -> None:
    source = ClipModule.load_from_checkpoint(checkpoint)
    tokenizer = {"name": "clip", "context_length": 16}
    module = ClipModule(pretrained=str(checkpoint), text_encoder={**TEXT, "width": 64}, tokenizer=tokenizer)
    module.configure_model()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(module.encode_image(images), source.encode_image(images))
    assert module.model.text_encoder.output_dim == 64 and module.tokenizer.context_length == 16
    with pytest.raises(InputError, match="both towers are given.*omit one"):
        ClipModule(IMAGE, TEXT, pretrained=str(checkpoint))


def test_a_subclass(checkpoint: Path) -> None:
    """Its own loss, the towers of the source."""
    module = ConvirtModule.from_pretrained(checkpoint)
    source = ClipModule.load_from_checkpoint(checkpoint)
    assert type(module) is ConvirtModule and module.objective.loss.image_weight == 0.75 and module.model.logit_bias is None
    assert torch.equal(module.encode_text(["a dog"]), source.encode_text(["a dog"]))


def test_what_a_subclass_has_beside_the_towers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that was adapted is adapted again: its towers go on, its head does not."""
    names = ["cat", "dog"]
    source = ClassifierModule(IMAGE, TEXT, embed_dim=16, tokenizer={"name": "clip", "context_length": 24}, class_names=names)
    module = ClassifierModule(pretrained=str(save_checkpoint(tmp_path / "head.ckpt", source)), class_names=["a", "b", "c"])
    module.configure_model()
    assert "has weights beside its towers (classes): they are ignored" in caplog.text
    assert torch.equal(module.encode_text(names), source.encode_text(names)) and len(module.model.classes.weight) == 3  # type: ignore[arg-type,union-attr]


@pytest.mark.slow
def test_under_fsdp2(checkpoint: Path, tmp_path: Path) -> None:
    """Ranks whose model has no memory yet receive the first one's weights."""
    start = {"pretrained": str(checkpoint), **dict.fromkeys(("image_encoder", "text_encoder", "embed_dim", "tokenizer"))}
    assert_same(fit(tmp_path, **start)["weights"], alone(tmp_path, **start))


def test_mistakes(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="embed_dim 99 is not that of pretrained .*, 16: omit it"):
        ClipModule(pretrained=str(checkpoint), embed_dim=99)
    with pytest.raises(InputError, match="pretrained has no setting 'sourc': did you mean 'source'"):
        ClipModule(pretrained={"sourc": "x"})
    with pytest.raises(InputError, match="has no 'source'"):
        ClipModule(pretrained={"image_size": 32})
    with pytest.raises(InputError, match="pretrained.image_size 0 must be a whole number >= 1"):
        ClipModule(pretrained={"source": str(checkpoint), "image_size": 0})
    with pytest.raises(InputError, match="does not exist"):
        ClipModule(pretrained=str(tmp_path / "none.ckpt"))
    with pytest.raises(InputError, match="is a folder without weights that can be read"):
        ClipModule(pretrained=str(tmp_path))
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no complete file of weights .truncated"):
        ClipModule(pretrained=str(tmp_path / "cut.ckpt"))
    torch.save({"a": Path("x")}, tmp_path / "objects.ckpt")
    with pytest.raises(InputError, match="holds Python objects.*set allow_pickle=True"):
        ClipModule(pretrained=str(tmp_path / "objects.ckpt"))
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(InputError, match="holds a list, not weights by name"):
        ClipModule(pretrained=str(tmp_path / "list.ckpt"))
    tokenizer = {"name": "json", "content": _trained()}
    with pytest.raises(InputError, match="the tokenizer has 285 ids but the text tower of .* was trained with 49408"):
        ClipModule(pretrained=str(checkpoint), tokenizer=tokenizer)


def test_weights_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["embed_dim"] = 8
    content["state_dict"]["model.text_encoder.extra"] = torch.zeros(1)
    del content["state_dict"]["model.image_encoder.model.blocks.0.norm1.bias"]
    torch.save(content, tmp_path / "other.ckpt")
    expected = (
        r"other.ckpt' says embed_dim 8, .*do not fit: 2 of another shape: "
        r"image_projection.weight, text_projection.weight .*\(16, 32\), not \(8, 32\).*"
        r"1 missing: image_encoder.model.blocks.\*.norm1.bias; 1 unexpected: text_encoder.extra"
    )
    with pytest.raises(InputError, match=expected):
        ClipModule.from_pretrained(tmp_path / "other.ckpt")


def _trained() -> str:
    from lightning_clip.data.tokenizers import train_tokenizer

    return train_tokenizer(["a dog on the beach and a cat in the house"] * 4, vocab_size=320).content
