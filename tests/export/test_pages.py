"""The commands and settings on the pages of weights in and out do what the pages say, with small models for large ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from export.test_command import RECIPE
from export.test_export import clip_module
from PIL import Image
from small import small_trainer
from weights.families import open_clip_folder
from weights.test_from_open_clip import CONFIGS

from lightning_clip import ClipModule
from lightning_clip.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / f"docs/concepts/{name}.md").read_text() for name in ("pretrained", "export")}
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", PAGES["pretrained"] + PAGES["export"], re.S))
README = re.findall(r"<!-- run: export -->\n```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
PUBLISHED = "open_clip:ViT-B-32/laion2b_s34b_b79k"


def test_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that starts from weights, and a checkpoint that needs them no more."""
    open_clip_folder(tmp_path / "published", CONFIGS["clip"])
    recipe = yaml.safe_load(RECIPE)
    for key in ("image_encoder", "text_encoder", "embed_dim", "tokenizer"):
        del recipe["model"][key]
    recipe["trainer"]["callbacks"] = [recipe["trainer"]["callbacks"][1]]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    command = BLOCKS["fit"].strip()
    assert PUBLISHED in command
    assert main([*shlex.split(command.replace(PUBLISHED, "published"))[1:], "--trainer.callbacks.dirpath=."]) == 0
    for file in (tmp_path / "published").iterdir():
        file.unlink()
    module = ClipModule.load_from_checkpoint("last.ckpt")
    assert module.embed_dim == 48 and module.image_size == 32 and module.training_settings.optimizer.lr == 1e-3


def test_the_settings_of_the_page(tmp_path: Path) -> None:
    open_clip_folder(tmp_path, CONFIGS["clip"])
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["pretrained"], re.S)
    settings = yaml.safe_load(block.replace(PUBLISHED, str(tmp_path)))
    assert ClipModule(**settings).training_settings.optimizer.warmup_steps == 100


@pytest.mark.slow
def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = small_trainer(tmp_path)
    trainer.strategy.connect(clip_module())
    trainer.save_checkpoint("last.ckpt")
    commands = BLOCKS["export"].strip().splitlines()
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
        assert (tmp_path / command.split()[-1] / "README.md").is_file()
    assert len(commands) == 6
    assert main([*shlex.split(README[0])[1:-1], "from_the_readme"]) == 0
    exec(BLOCKS["python"], {})
    Image.new("RGB", (50, 40), "red").save("picture.jpg")
    served: dict[str, Any] = {}
    exec(BLOCKS["serve"], served)
    module = ClipModule.load_from_checkpoint("last.ckpt")
    features = module.encode_image(Image.open("picture.jpg")), module.encode_text(["a photo of a dog", "a photo of a cat"])
    expected = module.model.scale() * features[0] @ features[1].T
    torch.testing.assert_close(torch.from_numpy(served["logits"]), expected, rtol=0, atol=1e-3)
    assert (tmp_path / "graphs/image.onnx").is_file()
    towered: dict[str, Any] = {}
    exec(BLOCKS["tower"], towered)
    assert towered["features"].shape == (1, module.embed_dim)
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    encoded: dict[str, Any] = {}
    exec(BLOCKS["sentences"], encoded)
    torch.testing.assert_close(torch.from_numpy(encoded["texts"]), features[1], rtol=0, atol=1e-6)
