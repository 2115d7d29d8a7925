"""The smallest models, data and trainers that behave like real ones; tests build everything from these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from PIL import Image

from lightning_clip import ClipDataModule, ClipModule

IMAGE = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2}
TEXT = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}


def arguments_of(
    *,
    loss: Any = None,
    projection: Any = None,
    transform: Any = None,
    optimizer: Any = None,
    micro_batch_size: int | None = None,
    execution: Any = None,
    adapt: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """Arguments of `ClipModule` from its settings by their short names, which tests would otherwise nest again and again."""
    found = dict(others)
    if loss is not None:
        found["objective"] = {"name": "pairs", "loss": loss}
    heads = projection if isinstance(projection, dict) and "name" not in projection else None
    towers: dict[str, Any] = {column: dict(spec) for column, spec in (others.get("towers") or {}).items()}
    for column in ("image", "text"):
        own = {"projection": heads[column] if heads else projection} if projection is not None else {}
        if column == "image" and transform is not None:
            own["transform"] = transform
        if own:
            towers[column] = {**towers.get(column, {}), **own}
    if towers:
        found["towers"] = towers
    settings = {"optimizer": optimizer, "micro_batch_size": micro_batch_size, "execution": execution, "adapt": adapt}
    given = {key: value for key, value in settings.items() if value is not None}
    if given:
        found["training"] = {**(others.get("training") or {}), **given}
    return found


def small_module(**arguments: Any) -> ClipModule:
    """A ClipModule of some 1.6 million parameters, nearly all of them CLIP's vocabulary; settings as for `arguments_of`."""
    settings: dict[str, Any] = {
        "embed_dim": 16,
        "tokenizer": {"name": "clip", "context_length": 24},
        "optimizer": {"lr": 1e-3, "warmup_steps": 1},
        **arguments,
    }
    return ClipModule(settings.pop("image_encoder", IMAGE), settings.pop("text_encoder", TEXT), **arguments_of(**settings))


def small_data(size: int = 64, batch: int = 16, **arguments: Any) -> ClipDataModule:
    """Rendered scenes."""
    sources = {
        split: {"name": "synthetic", "split": split, "size": size, "image_size": 32} for split in ("train", "val", "test")
    }
    return ClipDataModule(**{**sources, "local_batch_size": batch, **arguments})  # type: ignore[arg-type]


def small_trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    """A quiet trainer on one CPU."""
    settings: dict[str, Any] = {
        "max_steps": 4,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        **arguments,
    }
    return pl.Trainer(**settings)


def write_folder(folder: Path, count: int = 6, size: tuple[int, int] = (40, 30)) -> Path:
    """A folder of JPEGs with `captions.jsonl`; every second image has two captions. Returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        Image.new("RGB", size, (number * 20 % 256, 90, 200)).save(folder / f"{number}.jpg")
        captions = [f"picture {number}", f"image number {number}"][: 1 + number % 2]
        rows.append({"image": f"{number}.jpg", "caption": captions, "split": "train" if number % 3 else "val"})
    table = folder / "captions.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows))
    return table


def save_checkpoint(path: Path, module: ClipModule | None = None) -> Path:
    """A checkpoint of a module that was not trained."""
    trainer = small_trainer(path.parent)
    trainer.strategy.connect(module or small_module())
    trainer.strategy.lightning_module.configure_model()
    trainer.save_checkpoint(path)
    return path
