"""The recipes that compare objectives on CIFAR-10's captions, on a copy of the data with a few images."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from small import small_trainer

from lightning_clip.cli import main
from lightning_clip.commands.recipe import read_recipe

FOLDER = Path(__file__).parents[2] / "recipes/efficiency/cifar10"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes, each of one grey: 12 images of training and as many of the test as the recipes evaluate on."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar10").mkdir()
    lines = ["image,label,split"]
    with tarfile.open(folder / "cifar10/images.tar", "w") as tar:
        for label, name in enumerate(NAMES):
            content = io.BytesIO()
            Image.new("RGB", (32, 32), (25 * label,) * 3).save(content, "PNG")
            for split, count in (("train", 12), ("test", 100)):
                for number in range(count):
                    entry = tarfile.TarInfo(f"images/{split}/{name}/{number:04d}.png")
                    entry.size = len(content.getvalue())
                    tar.addfile(entry, io.BytesIO(content.getvalue()))
                    lines.append(f"{entry.name},{name},{split}")
    (folder / "cifar10/labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", ["pairs", "words", "captioning"])
def test_a_step(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", str(data))
    monkeypatch.chdir(FOLDER.parents[2])
    recipe = read_recipe([str(FOLDER / "base.yaml"), str(FOLDER / f"{name}.yaml")], ["--data.local_batch_size=10"])
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(recipe.module, recipe.data)
    assert trainer.global_step == 1 and 0 < float(trainer.logged_metrics["train/loss"]) < 20


@pytest.mark.slow
def test_compared(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A level that the weaker recipes miss gives a lower bound."""
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", str(data))
    monkeypatch.chdir(FOLDER.parents[2])
    few = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--data.local_batch_size=20", "--trainer.accelerator=cpu"]
    assert main(["compare", str(FOLDER), "--seeds", "1", "--chance", "0.1", "--output", str(tmp_path), *few]) == 0
    found = json.loads((tmp_path / "efficiency.json").read_text())
    assert found["metric"] == "val/zero_shot/cifar10/top1" and set(found["curves"]) == {"pairs", "words", "captioning"}
    assert all([images for images, _ in curves[0]] == [40, 80] for curves in found["curves"].values())
    ends = {name: max(value for _, value in curves[0]) for name, curves in found["curves"].items()}
    best, *_, worst = sorted(ends, key=ends.__getitem__, reverse=True)
    assert ends[best] > ends[worst]
    capsys.readouterr()
    level = str((ends[best] + ends[worst]) / 2)
    again = [str(FOLDER), "--seeds", "1", "--level", level, "--output", str(tmp_path), *few]
    assert main(["compare", *again]) == 0
    assert f"{best} reaches" in (said := capsys.readouterr().out) and "at least" in said
