"""The command `export`: from a run to a folder with a card that says what the run left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small import IMAGE, TEXT, small_data, small_module, small_trainer

from lightning_clip import ClipModule
from lightning_clip.cli import main
from lightning_clip.curation.filters import Looked
from lightning_clip.curation.filters.score import Score
from lightning_clip.export.card import Run

RECIPE = f"""
model:
  image_encoder: {{{", ".join(f"{key}: {value}" for key, value in IMAGE.items())}}}
  text_encoder: {{{", ".join(f"{key}: {value}" for key, value in TEXT.items())}}}
  embed_dim: 16
  tokenizer: {{name: clip, context_length: 24}}
  training: {{optimizer: {{lr: 0.001, warmup_steps: 1}}}}
data:
  train: {{name: synthetic, size: 32, image_size: 32}}
  local_batch_size: 8
trainer:
  max_steps: 3
  accelerator: cpu
  devices: 1
  logger: false
  enable_progress_bar: false
  callbacks:
    - lightning_clip.ComputeMeter
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{filename: last, enable_version_counter: false}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a recipe was trained."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(RECIPE)
    arguments = ["--config", str(folder / "recipe.yaml"), f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *arguments, f"--trainer.callbacks.dirpath={folder}"]) == 0
    assert (folder / "last.ckpt").is_file()
    return folder


def test_card(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report").mkdir()
    (run / "report/report.md").write_text("| set | protocol |\n|---|---|\n| scenes | zero_shot |\n")
    command = ["export", str(run / "last.ckpt"), "--format", "safetensors", "--output", str(run / "mine")]
    assert main([*command, "--evaluation", str(run / "report")]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {run / 'mine'}" in printed and "images differ by at most 0.0e+00, texts by 0.0e+00" in printed
    card = (run / "mine/README.md").read_text()
    for fact in (
        "| scenes | zero_shot |",
        "3 optimizer steps",
        "name: synthetic",
        "accelerator-years",
        "24 pairs were seen",
        "0 whole passes",
    ):
        assert fact in card, fact
    assert card.startswith("---\nlibrary_name: lightning_clip") and "vit_tiny_patch16_224" in card and "{folder}" not in card
    module = ClipModule.load_from_checkpoint(run / "last.ckpt")
    again = ClipModule.from_pretrained(run / "mine")
    assert torch.equal(module.encode_text(["a dog"]), again.encode_text(["a dog"]))
    other = ["export", str(run / "mine"), "--format", "safetensors", "--output", str(run / "again")]
    assert main(other) == 0  # a folder is as good as a checkpoint, and its card says what is not known
    assert "Not recorded with this model" in (run / "again/README.md").read_text()


def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: str) -> str:
        assert main(["export", *arguments]) == 2
        return capsys.readouterr().err

    out = str(run / "out")
    assert "does not exist" in fails(str(run / "none.ckpt"), "--format", "onnx", "--output", out)
    expected = "cannot hold this model exactly: transformers has no model of a TimmImageEncoder"
    assert expected in fails(str(run / "last.ckpt"), "--format", "huggingface", "--output", out)
    (run / "cut.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:5000])
    assert "is no complete checkpoint" in fails(str(run / "cut.ckpt"), "--format", "onnx", "--output", out)
    report = fails(
        str(run / "last.ckpt"), "--format", "onnx", "--output", out, "--evaluation", str(run / "recipe.yaml"), "--recipe", "x"
    )
    assert "recipe 'x' does not exist" in report
    (run / "odd").write_bytes(b"\xff\xfe")
    common = (str(run / "last.ckpt"), "--format", "onnx", "--output", out)
    assert "recipe '" in (printed := fails(*common, "--recipe", str(run))) and "is no readable text" in printed
    assert "evaluation '" in (printed := fails(*common, "--evaluation", str(run / "odd"))) and "in UTF-8" in printed
    unknown = fails(str(run / "last.ckpt"), "--format", "onx", "--output", out)
    assert "unknown export format 'onx': did you mean 'onnx'" in unknown

    def push(folder: Path, repository: str) -> Any:
        raise AssertionError("only behind its flag")

    monkeypatch.setattr("lightning_clip.export.export.push_to_hub", push)
    assert main(["export", str(run / "last.ckpt"), "--format", "safetensors", "--output", out]) == 0


def test_weights_of_others_serve_wherever_a_checkpoint_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, named = run / "published", run / "renamed.pt"
    assert main(["export", str(run / "last.ckpt"), "--format", "safetensors", "--output", str(folder)]) == 0
    named.write_bytes((run / "last.ckpt").read_bytes())
    Image.new("RGB", (32, 32), "red").save(run / "red.png")
    capsys.readouterr()
    tables = []
    for source in (run / "last.ckpt", folder, named):
        assert main(["classify", str(run / "red.png"), "--labels", "red,blue", "--checkpoint", str(source)]) == 0
        tables.append(capsys.readouterr().out)
    assert "red.png" in tables[0] and tables[1:] == tables[:1] * 2
    between = ["interpolate", str(folder), str(run / "last.ckpt"), "--alpha", "0.5", "--output", str(run / "between.ckpt")]
    assert main(between) == 0
    sample = Looked(("a dog",), torch.zeros(3, 32, 32, dtype=torch.uint8), {})
    scores = [Score(str(source), least=-1)._scores([sample]) for source in (run / "last.ckpt", folder)]
    assert scores[0] == scores[1]
    assert main(["classify", str(run / "red.png"), "--labels", "red,blue", "--checkpoint", "open_clip:ViT-B-32/gone.pt"]) == 2
    assert "the file of ViT-B-32's weights 'gone.pt' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "passes"), [(7, 0), (8, 1), (10, 1), (16, 2)])
def test_whole_passes_are_counted(steps: int, passes: int, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=steps)
    trainer.fit(small_module(), small_data(size=64, batch=8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert Run.of(str(tmp_path / "last.ckpt")).epochs == passes
