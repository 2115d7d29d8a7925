"""The commands on the pages about labels and teachers, on stand-in data and for two steps in the place of all."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from test_recipes import ROOT, base_checkpoint, data_folder

from lightning_clip import ClipModule
from lightning_clip.cli import main
from lightning_clip.merging.mixing import write_checkpoint

__all__ = ["base_checkpoint", "data_folder"]

PAGE = (ROOT / "docs/recipes/adapt_cifar10.md").read_text()
SMALL = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def block(text: str, name: str) -> list[list[str]]:
    (found,) = re.findall(rf"<!-- run: {name} -->\n```console\n(.*?)```", text, re.S)
    return [shlex.split(line)[1:] for line in found.strip().splitlines()]


@pytest.fixture
def place(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes that ask for two photographs where the real ones ask for a hundred, and an untrained model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for name in ("evaluation/adapt_cifar10", "adapt/cifar10"):
        recipe = tmp_path / f"recipes/{name}.yaml"
        text = recipe.read_text().replace("shots: 100", "shots: 2").replace("shots: 50", "shots: null")
        recipe.write_text(text.replace("shots: 16", "shots: 2"))
    folder = data_folder / "fashion_small"
    for picture in folder.glob("*.jpg"):
        shutil.copy(picture, folder / "images.tar")
    lines = (folder / "captions.jsonl").read_text().splitlines()
    kinds = [line.replace("Shirts", ("Shirts", "Shoes")[number % 2]) for number, line in enumerate(lines)]
    (folder / "captions.jsonl").write_text("\n".join(kinds))
    module = ClipModule(**yaml.safe_load((ROOT / "recipes/fashion_small.yaml").read_text())["model"])
    module.configure_model()
    write_checkpoint(module, tmp_path / "runs/fashion_small/last.ckpt")
    return tmp_path


@pytest.mark.parametrize("way", ["flyp", "lora", "head", "coop", "clip_adapter", "tip_adapter"])
def test_adapting_to_cifar10(way: str, place: Path) -> None:
    commands = [command for command in block(PAGE, "adapt_cifar10") if f"recipes/adapt/{way}.yaml" in command]
    assert commands
    for command in commands:
        small = [*SMALL, "--data.train.shots=1"] if command[0] == "fit" else SMALL[1:]
        assert main([*command, *small, "--data.local_batch_size=10"]) == 0, command
    assert ClipModule.load_from_checkpoint(place / f"runs/adapt/{way}/last.ckpt").encode_text("a").isfinite().all()


def test_between_the_models(place: Path) -> None:
    """The fine-tuned one is there, and three weights are tried in the place of eleven."""
    (place / "runs/adapt/flyp").mkdir(parents=True)
    shutil.copy(place / "runs/fashion_small/last.ckpt", place / "runs/adapt/flyp/last.ckpt")
    for command in block(PAGE, "wise_ft"):
        assert main([*command, *(["--alpha=0,0.5,1"] if command[0] == "interpolate" else [])]) == 0, command
    assert (place / "runs/adapt/wise_ft.png").exists() and (place / "runs/adapt/evaluation/report.html").exists()


def test_teaching(data_folder: Path, base_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from small import IMAGE, write_folder

    write_folder(tmp_path / "my_pairs")
    shutil.copy(base_checkpoint, tmp_path / "teacher.ckpt")
    page = (ROOT / "docs/concepts/distillation.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    model = yaml.safe_load(shown)["model"]
    model["init_args"] |= {"image_encoder": IMAGE, "text_encoder": {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}}
    model["init_args"] |= {"teachers": "teacher.ckpt", "training": {"optimizer": {"warmup_steps": 0}}}
    trainer = {"logger": False, "num_sanity_val_steps": 0}
    (tmp_path / "student.yaml").write_text(
        yaml.safe_dump({"model": model, "data": {"local_batch_size": 3}, "trainer": trainer})
    )
    for command in block(page, "teach"):
        assert main(command + (SMALL if command[0] == "fit" else [])) == 0, command


def test_stored_teacher_of_the_products(place: Path) -> None:
    page = (ROOT / "docs/recipes/distill_fashion_small.md").read_text()
    for command in block(page, "stored"):
        more = [*SMALL, "--data.local_batch_size=3", "--data.num_workers=0"] if command[0] == "fit" else []
        assert main([os.path.expandvars(word) for word in command] + more) == 0, command
    assert ClipModule.load_from_checkpoint(place / "runs/distill_fashion_small/last.ckpt").distillation.teachers == "stored"
