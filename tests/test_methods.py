"""docs/concepts/methods.md: each method is one short file, run as its page says, in slices, on ranks and resumed."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from PIL import Image
from small import small_trainer
from torch import Tensor
from variants.senses import SETTINGS, Senses, batch_of, error_of, gradients, share

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "concepts" / "methods.md").read_text("utf-8")
FILES = dict(re.findall(r"<!-- method: (\w+) -->\n```python\n(.*?)```", PAGE, re.S))
COMMANDS = dict(re.findall(r"<!-- run: (\w+) -->\n```console\n(.*?)```", PAGE, re.S))
LINES = {"superclip": 20, "geoclip": 15, "simclr": 20, "imagebind": 15}  # at most, empty ones not counted
RECIPE = """
model:
  image_encoder: {name: vit_tiny_patch16_224, image_size: 32, patch_size: 16, depth: 1, embed_dim: 32, num_heads: 2}
  text_encoder: {name: clip_text, width: 32, layers: 1, heads: 2}
  embed_dim: 16
  tokenizer: {name: clip, context_length: 24}
  training: {optimizer: {lr: 1.0e-2, warmup_steps: 0}, micro_batch_size: 4}
data:
  train: SOURCE
  local_batch_size: 8
trainer:
  max_steps: 4
  accelerator: cpu
  devices: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: run
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: run, filename: "{step}", every_n_train_steps: 2, save_top_k: -1}
"""
SOURCES = {
    "superclip": "table/captions.csv",
    "geoclip": "{name: table/captions.csv, columns: {gps: [lat, lon]}}",
    "simclr": "table/captions.csv",
    "imagebind": '"shards/train-000000.tar"',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of images with captions and places, shards with depth maps, and the page's files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("table").mkdir()
    with Path("table/captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "lat", "lon"])
        for number in range(32):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"table/{number}.png")
            table.writerow([f"{number}.png", f"a picture of thing {number}", number * 5 - 80, number * 11 - 170])
    Path("shards").mkdir()
    write_shard(Path("shards/train-000000.tar"))
    for name, text in FILES.items():
        Path(f"{name}.py").write_text(text)
    return tmp_path


def write_shard(path: Path) -> None:
    """32 samples KEY.png, KEY.txt, KEY.depth.npy."""
    import io
    import tarfile

    source = Senses()
    with tarfile.open(path, "w") as tar:
        for index in range(len(source)):
            pair = source[index]
            image, depth = io.BytesIO(), io.BytesIO()
            Image.fromarray(pair.image.permute(1, 2, 0).numpy()).save(image, "PNG")  # type: ignore[union-attr]
            np.save(depth, pair.columns["depth"])
            members = {"png": image.getvalue(), "txt": pair.captions[0].encode(), "depth.npy": depth.getvalue()}
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{index:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", LINES)
def test_it_is_short(name: str) -> None:
    assert len([line for line in FILES[name].splitlines() if line.strip()]) <= LINES[name]


@pytest.mark.parametrize("name", corners([*LINES], "superclip", "geoclip"))
def test_the_command_of_the_page(name: str, folder: Path, own_names: None) -> None:
    """`fit` learns by the file, in slices; from its half it goes on to the same weights; the checkpoint names the plug-in."""
    (folder / "recipe.yaml").write_text(RECIPE.replace("SOURCE", SOURCES[name]))
    arguments = shlex.split(COMMANDS[name])[1:]
    assert main(arguments) == 0
    whole = torch.load("run/step=4.ckpt", weights_only=True)
    assert whole["global_step"] == 4 and whole["lightning_clip_plugins"] == [f"{name}.py"]
    assert main([*arguments, "--ckpt_path=run/step=2.ckpt", "--trainer.callbacks.init_args.dirpath=again"]) == 0
    again = torch.load("again/step=4.ckpt", weights_only=True)
    assert all(torch.equal(again["state_dict"][key], value) for key, value in whole["state_dict"].items())


def load(name: str) -> None:
    """Imports a file of the page under its name."""
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    exec(compile(FILES[name], f"{name}.py", "exec"), module.__dict__)


def superclip() -> ClipModule:
    torch.manual_seed(0)
    objective = [{"name": "pairs"}, {"name": "caption_words", "weight": 0.5}]
    image = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2}
    text = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}
    return ClipModule(image, text, objective=objective, **SETTINGS)


def _on_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    module = superclip()
    return gradients(module, share(batch_of(module, Senses()), rank, 8), 4)


def test_superclip_s_gradients_do_not_depend_on_how_it_is_run(own_names: None) -> None:
    load("superclip")
    module = superclip()
    batch = batch_of(module, Senses())
    expected = gradients(module, batch)
    assert "model.words.weight" in expected
    assert error_of(gradients(module, batch, 4), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2):
        assert error_of(found, expected) <= 1e-6


def test_superclip_s_words_are_those_of_a_plain_loop(own_names: None) -> None:
    """-1/n sum over the caption's words of the log of their softmax, in float64 loops."""
    load("superclip")
    module = superclip()
    batch = batch_of(module, Senses(), 5)
    with torch.no_grad():
        found = module.compute_loss(module.encoded_rows(batch), batch)["caption_words"]
        logits = module.model.words(module.encode(batch).image_features).double()  # type: ignore[operator]
    total = 0.0
    for row in range(5):
        words = set(batch.tokens[row][batch.mask[row]].tolist())  # type: ignore[index]
        share_of_all = logits[row].exp().sum()
        total -= sum(float((logits[row, word].exp() / share_of_all).log()) for word in words) / len(words)
    assert float(found) == pytest.approx(total / 5, rel=1e-6)


def test_superclip_learns_and_its_layer_stays_out_of_exports(tmp_path: Path, own_names: None) -> None:
    load("superclip")
    module = superclip()
    batch = batch_of(module, Senses(), 12)
    optimizer = torch.optim.Adam(module.parameters(), 5e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        parts = module.compute_loss(module.encoded_rows(batch), batch)
        parts["loss"].backward()
        losses.append(float(parts["caption_words"]))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.fit(module, ClipDataModule(Senses(), local_batch_size=8))
    from lightning_clip.export.export import export

    exported = export(module, "safetensors", tmp_path / "out")
    assert exported.image_difference == 0.0
    assert "words.weight" in module.model.state_dict()
    assert "words" not in ClipModule.from_pretrained(str(exported.folder)).model.state_dict()
