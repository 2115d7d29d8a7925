"""Every command that writes, with what it is given and where it writes: a table that tests of locks and disks walk over."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from hostile.conftest import recipe_of
from PIL import Image
from safetensors.torch import load_file
from small import save_checkpoint, small_module, write_folder
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from lightning_clip.applications.search import build_index
from lightning_clip.checkpoints.parts import write_parts

__all__ = ["FORMATS", "WRITES_NOTHING", "Writer", "check_whole", "make_sources", "names", "writers"]

# What they say goes to the terminal.
WRITES_NOTHING = {
    "completion",
    "models",
    "suites",
    "plan",
    "classify",
    "prompts show",
    "validate",
    "index info",
    "caption",
    "serve",
}
# Of an architecture that every format holds.
CLIP_VIT = {
    "name": "vit_base_patch16_clip_224",
    "image_size": 32,
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 1,
    "num_heads": 4,
}
GROUPS = ("data", "checkpoint", "prompts", "tokenizer", "index")
FORMATS = ("safetensors", "huggingface", "open_clip", "onnx", "torch-export", "timm")


class Writer(NamedTuple):
    """A command.

    Args:
        arguments: of the command line.
        outputs: files and folders that it makes.
        replaces: whether it writes over what is there; else it refuses to, or counts it as done.
    """

    arguments: tuple[str, ...]
    outputs: tuple[Path, ...]
    replaces: bool = True

    @property
    def command(self) -> str:
        """Its name in the table of commands."""
        first, second = self.arguments[:2]
        return f"{first} {second}" if first in GROUPS else first


def make_sources(folder: Path) -> Path:
    """What commands read: checkpoints and pictures. Returns the folder."""
    save_checkpoint(folder / "a.ckpt", small_module(tokenizer=recipe_of(folder)["model"]["tokenizer"]))
    save_checkpoint(folder / "clip.ckpt", small_module(image_encoder=CLIP_VIT))
    save_checkpoint(folder / "boxes.ckpt", small_module(image_encoder={**CLIP_VIT, "patch_size": 8}, objective="detection"))
    lora = {"image": {"lora": {"rank": 2}}, "store": "full"}
    save_checkpoint(folder / "lora.ckpt", small_module(adapt=lora))
    write_folder(folder / "pictures", count=40, size=(400, 300))
    parts = folder / "parts.ckpt"
    state = {"state_dict": {"weight": torch.arange(50_000.0)}}
    _save_state_dict(state, FileSystemWriter(parts, single_file_per_rank=True), no_dist=True)
    torch.save({"lightning_clip_class": "lightning_clip.ClipModule", "global_step": 3}, parts / "meta.pt")
    write_parts(parts, 3)
    build_index(folder / "photos.index", str(folder / "pictures/captions.jsonl"), str(folder / "a.ckpt"))
    return folder


def check_whole(path: Path) -> None:
    """Reads a file to its end, or all files of a folder; those of kinds that are not known are not looked into."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if not file.is_file() or file.name.endswith((".lock", ".lock.by")):
            continue
        assert ".partial" not in file.name, file
        if file.suffix == ".ckpt":
            assert torch.load(file, weights_only=True)["state_dict"], file
        elif file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".npz":
            assert all(value is not None for value in np.load(file, allow_pickle=False).values()), file
        elif file.suffix == ".npy":
            np.load(file, allow_pickle=False)
        elif file.suffix == ".png":
            Image.open(file).load()
        elif file.suffix == ".tar":
            with tarfile.open(file) as shard:
                assert all(len(shard.extractfile(one).read()) == one.size for one in shard.getmembers())  # type: ignore[union-attr]
        elif file.suffix in (".json", ".jsonl"):
            texts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            assert all(json.loads(text) is not None for text in texts), file
        elif file.suffix == ".yaml":
            assert yaml.safe_load(file.read_text()), file
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>"), file


def names() -> list[str]:
    """Of the table's entries."""
    return list(writers(Path("sources"), Path("place"), make=False))


def writers(sources: Path, place: Path, *, make: bool = True) -> dict[str, Writer]:
    """The table.

    Args:
        sources: of `make_sources`.
        place: an existing folder, in which all outputs are.
        make: write the recipes that name the place into `sources`.
    """
    model, table, suite = str(sources / "a.ckpt"), str(sources / "pictures/captions.jsonl"), str(sources / "suite.yaml")
    photo, boxes = str(sources / "pictures/1.jpg"), str(sources / "boxes.ckpt")
    if make:
        _write_recipes(sources, place, table)
    recipe = {name: str(sources / f"{name}.yaml") for name in ("fit", "predict", "report", "compare")}
    pack = ("data", "pack", "--data", table, "--output", str(place / "out-%06d.tar"), "--pairs-per-shard", "20")
    shards = tuple(place / f"out-{number:06d}.tar" for number in range(2))
    found = {
        "fit": Writer(("fit", "--config", recipe["fit"]), (place / "run/last.ckpt", place / "run/config.yaml")),
        "predict": Writer(("predict", "--config", recipe["predict"], "--ckpt_path", model), (place / "features.npz",)),
        "test with a report": Writer(
            ("test", "--config", recipe["report"], "--ckpt_path", model), (place / "report_test.html",)
        ),
        "evaluate": Writer(
            ("evaluate", "--checkpoint", model, "--suite", suite, "--output", str(place / "evaluated")), (place / "evaluated",)
        ),
        "compare": _written(place / "compared", "compare", recipe["compare"], "--seeds", "1", "--metric", "val/loss"),
        "prompts search": _written(place / "prompts.yaml", *SEARCH, "--suite", suite, "--checkpoint", model),
        "tokenizer train": _written(place / "words.json", "tokenizer", "train", "--data", table, "--vocab-size", "300"),
        "interpolate": _written(place / "mixed.ckpt", "interpolate", model, model, "--alpha", "0.5", replaces=False),
        "soup": _written(place / "soup.ckpt", "soup", model, model, "--method", "uniform", replaces=False),
        "consolidate": _written(place / "whole.ckpt", "checkpoint", "consolidate", str(sources / "parts.ckpt"), replaces=False),
        "merge": Writer(
            ("checkpoint", "merge", str(sources / "lora.ckpt"), str(place / "merged.ckpt")), (place / "merged.ckpt",), False
        ),
        "pack": Writer(pack, shards, False),
        "pack with workers": Writer((*pack, "--workers", "2"), shards, False),
        "teach": Writer(
            ("data", "teach", "--data", table, "--teacher", model, "--output", str(place / "taught-%06d.tar")),
            (place / "taught-000000.tar",),
            False,
        ),
        "index build": _written(place / "new.index", "index", "build", "--data", table, "--checkpoint", model, replaces=False),
        "search": Writer(
            ("search", str(sources / "photos.index"), "a picture", "--sheet", str(place / "found.png")), (place / "found.png",)
        ),
        "detect": Writer(
            (
                "detect",
                photo,
                "--labels",
                "sea,sky",
                "--checkpoint",
                boxes,
                "--output",
                str(place / "found"),
                "--threshold",
                "0",
            ),
            (place / "found/1.boxes.png", place / "found/1.boxes.json"),
        ),
        "segment": Writer(
            ("segment", photo, "--labels", "sea,sky", "--checkpoint", model, "--output", str(place / "areas")),
            (place / "areas/1.overlay.png", place / "areas/1.mask.png"),
        ),
        "explain": _written(place / "heat.png", "explain", photo, "--text", "a blue sea", "--checkpoint", model),
        "imagine": _written(place / "ring.png", "imagine", "a ring", "--checkpoint", model, "--steps", "2"),
        "silence": _written(place / "silent.ckpt", "silence", model, "--heads", "0.1", replaces=False),
        "start": _written(place / "first.yaml", "start", table, "--device", "cpu"),
        "recipes": _written(place / "mine.yaml", "recipes", "copy", "demo", replaces=False),
        "inspect": _written(place / "sheet.png", "data", "inspect", "--data", table),
        "inspect to a report": _written(place / "sheet.html", "data", "inspect", "--data", table),
        "curate": Writer(
            ("data", "curate", f"--data={table}", f"--output={place / 'curated'}", "--pairs_per_shard=20"), (place / "curated",)
        ),
        "verify": _written(place / "faults.jsonl", "data", "verify", "--data", table),
    }
    for name in FORMATS:
        output = place / f"as-{name}"
        found[f"export {name}"] = _written(output, "export", str(sources / "clip.ckpt"), "--format", name, replaces=False)
    return found


SEARCH = ("prompts", "search", "--templates", "a photo of a {}", "--templates", "a {}", "--split", "test")


def _written(output: Path, *arguments: str, replaces: bool = True) -> Writer:
    return Writer((*arguments, "--output", str(output)), (output,), replaces)


def _write_recipes(sources: Path, place: Path, table: str) -> None:
    saving = {"dirpath": str(place / "run"), "filename": "last", "enable_version_counter": False}
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saving}
    features = {"class_path": "lightning_clip.callbacks.WriteFeatures", "init_args": {"path": str(place / "features.npz")}}
    report = {"class_path": "lightning_clip.callbacks.Report", "init_args": {"path": str(place / "report.html")}}
    for name, callback in {"fit": saver, "predict": features, "report": report}.items():
        recipe = recipe_of(place / "run", callbacks=[callback])
        (sources / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    (sources / "compare.yaml").write_text(yaml.safe_dump(recipe_of(place / "run", callbacks=[], log_every_n_steps=1)))
    suite = {
        "sets": {"a": {"name": "synthetic", "size": 64, "image_size": 32, "protocols": ["zero_shot"]}},
        "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "output": str(place / "searched"),
    }
    (sources / "suite.yaml").write_text(yaml.safe_dump(suite))
