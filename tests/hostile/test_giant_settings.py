"""Settings of giant towers beside weights of small ones: one line that names the setting, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile.kinds import _open_clip, _ours, _transformers
from hostile.watching import watched
from small import save_checkpoint

from lightning_clip import ClipModule, InputError
from lightning_clip.core.tensor_count import TooManyTensors, at_most_tensors


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in each form."""
    root = tmp_path_factory.mktemp("forms")
    makers: dict[str, Callable[[Path], object]] = {
        "lightning_clip.json": _ours,
        "open_clip_config.json": _open_clip,
        "config.json": lambda folder: _transformers("CLIP", folder),
    }
    for name, make in makers.items():
        (root / name).mkdir()
        make(root / name)
    save_checkpoint(root / "a.ckpt")
    return root


def changed(root: Path, path: str, value: Any, target: Path) -> Path:
    """A folder as one of `root`, in which a setting (file, then keys) has another value."""
    file, *keys = path.split("/")
    for whole in (root / file / "model").iterdir():
        (target / whole.name).write_bytes(whole.read_bytes())
    settings = json.loads((target / file).read_text())
    place = settings
    for key in keys[:-1]:
        place = place[key]
    assert keys[-1] in place
    place[keys[-1]] = value
    (target / file).write_text(json.dumps(settings))
    return target


CASES = {
    (
        "lightning_clip.json/text_encoder/width",
        30_000,
    ): "text_encoder.width 30000, .*text_encoder.positional_embedding is .*, 32.",
    ("lightning_clip.json/text_encoder/vocab_size", 10**7): r"text_encoder.vocab_size 10000000, .*token_embedding.weight is \(",
    ("lightning_clip.json/text_encoder/layers", 1_000_000): "text_encoder.layers 1000000, but its weights are .* tensors",
    ("lightning_clip.json/image_encoder/depth", 10**9): "image_encoder.depth 1000000000, but its weights are .* tensors",
    ("lightning_clip.json/image_encoder/embed_dim", 30_000): "image_encoder.embed_dim 30000, .*image_encoder.model.",
    ("lightning_clip.json/image_encoder/image_size", 100_000): r"a model of 1,250,\d+,\d+ values, .*not \(1, 39062501, 32\)",
    ("lightning_clip.json/embed_dim", 10**7): r"embed_dim 10000000, .*projection.weight is \(16, 32\)",
    ("lightning_clip.json/embed_dim", 10**12): "embed_dim 1000000000000, more than its weights have values",
    ("lightning_clip.json/image_encoder/num_heads", 0): "num_heads 0 must be a number > 0",
    (
        "open_clip_config.json/model_cfg/vision_cfg/width",
        30_000,
    ): "vision_cfg.width 30000, .*visual.class_embedding is .64,.*30000",
    ("open_clip_config.json/model_cfg/vision_cfg/layers", 10**6): "vision_cfg.layers 1000000, but its weights are .* tensors",
    ("open_clip_config.json/model_cfg/text_cfg/context_length", 10**6): r"text_cfg.context_length 1000000, .* is \(16, 32\)",
    ("open_clip_config.json/model_cfg/text_cfg/vocab_size", 10**7): r"text_cfg.vocab_size 10000000, .* is \(64, 32\)",
    ("open_clip_config.json/model_cfg/embed_dim", 10**7): "embed_dim 10000000, .* would be ",
    ("config.json/text_config/hidden_size", 28_000): "text_config.hidden_size 28000, .*text_model.* is .*32",
    (
        "config.json/vision_config/intermediate_size",
        10**7,
    ): "vision_config.intermediate_size 10000000, .*vision_model.* is .*64",
    ("config.json/vision_config/num_hidden_layers", 10**6): "vision_config.num_hidden_layers 1000000, but its weights are",
    ("config.json/text_config/max_position_embeddings", 10**7): "text_config.max_position_embeddings 10000000, .* is .32, 32",
    ("config.json/projection_dim", 10**7): "projection_dim 10000000, .* would be ",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}={case[1]}")
def test_a_giant_setting_is_named(case: tuple[str, int], folders: Path, tmp_path: Path) -> None:
    folder = changed(folders, *case, tmp_path)
    with watched(tmp_path), pytest.raises(InputError, match=CASES[case]) as caught:
        ClipModule.from_pretrained(str(folder))
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["lightning_clip.json", "open_clip_config.json", "config.json"])
def test_the_right_settings_are_not_refused(name: str, folders: Path) -> None:
    assert ClipModule.from_pretrained(str(folders / name / "model")).embed_dim == 16


@pytest.mark.parametrize(
    ("tower", "key", "value", "message"),
    [
        ("text_encoder", "width", 30_000, "a.ckpt' says text_encoder.width 30000, but .*positional_embedding is .24, 32"),
        ("text_encoder", "layers", 10**6, "a.ckpt' says text_encoder.layers 1000000, but its weights are"),
        ("image_encoder", "embed_dim", 30_000, "a.ckpt' says image_encoder.embed_dim 30000, but"),
    ],
)
def test_checkpoints_too(tower: str, key: str, value: int, message: str, folders: Path, tmp_path: Path) -> None:
    content = torch.load(folders / "a.ckpt", weights_only=True)
    content["hyper_parameters"][tower][key] = value
    torch.save(content, tmp_path / "a.ckpt")
    with watched(tmp_path), pytest.raises(InputError, match=message):
        ClipModule.load_from_checkpoint(tmp_path / "a.ckpt")
    with watched(tmp_path), pytest.raises(InputError, match=message):
        ClipModule(pretrained=str(tmp_path / "a.ckpt"))


def test_the_bound_ends_with_its_block() -> None:
    with pytest.raises(TooManyTensors, match="more than 1 tensors"), at_most_tensors(1):
        torch.nn.Linear(2, 2)
    torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("objective", 3, "lightning_clip.json' is broken .objective '3' is no name"),
        ("objective", ["pairs", None], "objective 'None' is no name"),
        ("objective", {"name": "pairs", "loss": 3}, "objective.loss '3' is no name"),
    ],
)
def test_objectives_of_another_kind(key: str, value: Any, message: str, folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ClipModule.from_pretrained(str(changed(folders, f"lightning_clip.json/{key}", value, tmp_path)))
