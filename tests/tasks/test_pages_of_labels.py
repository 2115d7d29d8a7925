"""The commands on the pages about labels and teachers, on stand-in data and for two steps in the place of all."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from corners import corners
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
    """Recipes that ask for two photographs where the real ones ask for a hundred, and an untrained model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.setattr("lightning_clip.core.shipped.recipes_folder", lambda: tmp_path / "recipes")
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


@pytest.mark.parametrize("way", corners(["flyp", "lora", "head", "coop", "clip_adapter", "tip_adapter"], "coop"))
def test_adapting_to_cifar10(way: str, place: Path) -> None:
    commands = [command for command in block(PAGE, "adapt_cifar10") if f"adapt/{way}" in command]
    assert commands
    for command in commands:
        small = [*SMALL, "--data.train.shots=1"] if command[0] == "fit" else SMALL[1:]
        assert main([*command, *small, "--data.local_batch_size=10"]) == 0, command
    assert ClipModule.load_from_checkpoint(place / f"runs/adapt/{way}/last.ckpt").encode_text("a").isfinite().all()


@pytest.mark.slow
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
    shown, *_ = re.findall(r"```yaml\n(.*?)```", page, re.S)
    model = yaml.safe_load(shown)["model"]
    model["init_args"] |= {"image_encoder": IMAGE, "text_encoder": {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}}
    model["init_args"] |= {"teachers": "teacher.ckpt", "training": {"optimizer": {"warmup_steps": 0}}}
    trainer = {"logger": False, "num_sanity_val_steps": 0}
    (tmp_path / "student.yaml").write_text(
        yaml.safe_dump({"model": model, "data": {"local_batch_size": 3}, "trainer": trainer})
    )
    for command in block(page, "teach"):
        assert main(command + (SMALL if command[0] == "fit" else [])) == 0, command


@pytest.mark.slow
def test_stored_teacher_of_the_products(place: Path) -> None:
    page = (ROOT / "docs/recipes/distill_fashion_small.md").read_text()
    for command in block(page, "stored"):
        more = [*SMALL, "--data.local_batch_size=3", "--data.num_workers=0"] if command[0] == "fit" else []
        assert main([os.path.expandvars(word) for word in command] + more) == 0, command
    assert ClipModule.load_from_checkpoint(place / "runs/distill_fashion_small/last.ckpt").distillation.teachers == "stored"


def shown(page: str, name: str, language: str) -> str:
    """A block of a page that carries a name."""
    text = (ROOT / "docs/concepts" / page).read_text()
    (found,) = re.findall(rf"<!-- (?:recipe|example): {name} -->\n```{language}\n(.*?)```", text, re.S)
    return str(found)


def fit_cifar10(place: Path, model: str, *more: str) -> ClipModule:
    """Trains a recipe's model for two steps on the stand-in photographs."""
    (place / "model.yaml").write_text(model.replace("last.ckpt", "runs/fashion_small/last.ckpt"))
    data = ["--config", "recipes/adapt/cifar10.yaml", "--data.train.shots=1", "--data.local_batch_size=10"]
    place_of = [f"--trainer.default_root_dir={place / 'runs/own'}"]
    assert main(["fit", *more, *data, "--config", "model.yaml", *SMALL, *place_of]) == 0
    return ClipModule.load_from_checkpoint(place / "runs/own/last.ckpt", weights_only=True)


def test_objectives_together(place: Path) -> None:
    found = fit_cifar10(place, shown("fine_tuning.md", "together", "yaml"))
    names = [(term["name"], term["weight"]) for term in found.to_mapping()["objective"]]
    assert names == [("pairs", 1.0), ("classes", 0.5)] and found.model.classes.started


def test_classes_of_ones_own(place: Path) -> None:
    (place / "centred.py").write_text(shown("fine_tuning.md", "classes", "python"))
    model = "model: {pretrained: last.ckpt, objective: {name: centred, label_smoothing: 0.1}}"
    found = fit_cifar10(place, model, "--import", "centred.py")
    assert found.to_mapping()["objective"]["name"] == "centred" and found.objective.label_smoothing == 0.1


def test_a_teacher_beside_pairs(place: Path) -> None:
    model = yaml.safe_load(shown("distillation.md", "objectives", "yaml"))["model"]
    model["image_encoder"] = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1}
    model["text_encoder"] = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
    found = fit_cifar10(place, yaml.safe_dump({"model": model}))
    names = [(term["name"], term["weight"]) for term in found.to_mapping()["objective"]]
    assert names == [("pairs", 0.5), ("distillation", 1.0)]
