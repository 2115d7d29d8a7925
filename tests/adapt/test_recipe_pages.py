"""The commands on the pages of recipes that adapt a model, on stand-in data and for two epochs in the place of all."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from corners import corners
from test_recipes import ROOT, base_checkpoint, data_folder

from lightning_clip import ClipModule
from lightning_clip.cli import main

__all__ = ["base_checkpoint", "data_folder"]

ADAPTING = (ROOT / "docs/concepts/adapting.md").read_text()


def blocks(page: str, language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", (ROOT / f"docs/recipes/{page}.md").read_text(), re.S))


def commands(page: str) -> list[list[str]]:
    lines = blocks(page, "console").replace("\\\n", " ").splitlines()
    return [shlex.split(os.path.expandvars(line))[1:] for line in lines if line.startswith("lightning-clip")]


@pytest.mark.parametrize("page", corners(["lit", "two_stages", "lora", "fine_tune", "new_words", "long_texts"], "lit"))
def test_commands(page: str, data_folder: Path, base_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_BASE", str(base_checkpoint))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "runs/flickr8k").mkdir(parents=True)
    shutil.copy(base_checkpoint, tmp_path / "runs/flickr8k/last.ckpt")
    for folder, images in (("flickr8k", "images_144.tar"), ("fashion_small", "images.tar")):
        for picture in (data_folder / folder).glob("*.jpg"):
            shutil.copy(picture, data_folder / folder / images)
    monkeypatch.delenv("LIGHTNING_CLIP_TEXTS")
    exec(blocks(page, "python"), {})
    for command in commands(page):
        if command[0] == "interpolate":
            command.append("--alpha=0,1")
        if "flickr8k" in command:
            continue  # the checkpoint to begin with is there
        if "--data.train=photos" in command:
            continue  # test_recipes.py has it
        if command[0] in ("fit", "test"):
            command += [
                "--trainer.accelerator=cpu",
                "--data.local_batch_size=3",
                "--data.num_workers=0",
                "--data.max_bad_share=0",
            ]
        if command[0] == "fit":
            command += ["--trainer.max_epochs=4", "--model.training.optimizer.warmup_steps=0"]
        assert main(command) == 0, command
    if page == "new_words":
        before, after = (ClipModule.load_from_checkpoint(tmp_path / f"runs/{name}/last.ckpt") for name in ("flickr8k", page))
        texts, images = ["two dogs on the beach"], torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
        assert torch.equal(before.encode_text(texts), after.encode_text(texts))
        assert torch.equal(before.encode_image(images), after.encode_image(images))
        assert len(after.tokenizer.encode(["Casual Shoes"])[0]) == 3 < len(before.tokenizer.encode(["Casual Shoes"])[0])
    if page == "long_texts":
        before, after = (ClipModule.load_from_checkpoint(tmp_path / f"runs/{name}/last.ckpt") for name in ("flickr8k", page))
        assert before.tokenizer.context_length < after.tokenizer.context_length == 96
        assert before.tokenizer.vocab_size == after.tokenizer.vocab_size
        assert (tmp_path / "runs/long_texts/evaluation/report.html").exists()
    last = ClipModule.load_from_checkpoint(tmp_path / f"runs/{page}/last.ckpt")
    assert last.encode_text("一只狗").isfinite().all()
    assert (tmp_path / f"runs/{page}/whole.ckpt").exists() == (page in ("lora", "new_words"))
    assert (tmp_path / "runs/fine_tune/evaluation/report.html").exists() == (page == "fine_tune")
    assert bool(list(tmp_path.glob(f"runs/{page}/features/*/*.npy"))) == (page in ("lit", "new_words"))


def test_share_that_is_trained() -> None:
    """The page's figure for ViT-B/32."""
    module = ClipModule.from_preset(
        "ViT-B/32", training={"adapt": {"image": {"lora": {"rank": 8}}, "text": {"lora": {"rank": 8}}}}
    )
    with torch.device("meta"):
        module.configure_model()
    count = sum(value.numel() for value in module.parameters())
    trained = sum(value.numel() for value in module.parameters() if value.requires_grad)
    assert f"{trained:,} of {count:,} values" in ADAPTING and trained < 0.05 * count
