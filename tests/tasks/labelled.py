"""Small labelled pictures and modules that tests of adapting share."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small import IMAGE, TEXT, arguments_of, small_trainer

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.data.synthetic import combination_names
from lightning_clip.tasks import SupervisedModule

NAMES = ["red circle", "blue star", "green ring"]
SETTINGS: dict[str, Any] = {
    "embed_dim": 16,
    "tokenizer": {"name": "clip", "context_length": 24},
    "transform": {"crop_scale": [1.0, 1.0], "flip": 0.0},
    "optimizer": {"lr": 1e-3, "warmup_steps": 0},
}
GIVEN = arguments_of(**SETTINGS)  # as the constructors take them


def module_of(kind: type[ClipModule], start: ClipModule | None = None, **arguments: Any) -> Any:
    """A small module of a class, with the towers of another."""
    torch.manual_seed(0)
    if issubclass(kind, SupervisedModule):
        arguments = {"class_names": combination_names(held_out=True), **arguments}
    module = kind(IMAGE, TEXT, **arguments_of(**{**SETTINGS, **arguments}))
    module.configure_model()
    if start is not None:
        module.load_state_dict(start.state_dict(), strict=False)
    return module


def labelled_data(shots: int = 2, batch: int = 8, **arguments: Any) -> ClipDataModule:
    """Rendered shapes of which eight combinations of colour and shape are the classes."""
    scenes = {"name": "synthetic", "held_out": True, "size": 200, "image_size": 32}
    train = {"name": "shots", "source": scenes, "shots": shots}
    return ClipDataModule(train, {**train, "held_out": True}, local_batch_size=batch, **arguments)


def fit(module: ClipModule, folder: Path, steps: int = 2, data: ClipDataModule | None = None, **trainer: Any) -> Any:
    """Trains and hands back the trainer."""
    made = small_trainer(folder, max_steps=steps, **trainer)
    made.fit(module, data or labelled_data())
    return made


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_cifar10(folder: Path, train: int = 4, test: int = 2) -> None:
    """A table and a tar of pictures in the place of CIFAR-10's, so many of each class."""
    folder.mkdir(parents=True)
    lines = ["image,label,split"]
    with tarfile.open(folder / "images.tar", "w") as archive:
        for number in range(10 * (train + test)):
            label, split = number % 10, "train" if number < 10 * train else "test"
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (label * 25, number % 256, 90)).save(buffer, "PNG")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(buffer.getvalue())
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
            lines.append(f"{number}.png,{CIFAR10[label]},{split}")
    (folder / "labels.csv").write_text("\n".join(lines))
