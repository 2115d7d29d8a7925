"""`--find-batch-size`: memory that ends is stood in for by an error of the allocator, and once by a real limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from tasks.labelled import GIVEN, labelled_data

from lightning_clip import ClipModule, ClipOutput, InputError, PairBatch
from lightning_clip.commands.batch_size import find_batch_size, largest_that_fits
from lightning_clip.data.synthetic import combination_names
from lightning_clip.tasks import ClassifierModule

LIMIT = 30


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than `LIMIT` pairs fit."""
    encode = ClipModule.encode

    def limited_encode(self: ClipModule, batch: PairBatch) -> ClipOutput:
        if len(batch.image) > LIMIT:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return encode(self, batch)

    monkeypatch.setattr(ClipModule, "encode", limited_encode)


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 17, 64, 99, 100, 1000])
def test_search(bound: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= bound

    assert largest_that_fits(fits, 100) == min(bound, 100)
    assert len(tried) <= 16 and max(tried, default=0) <= 100


def test_leaves_a_tenth_free(tmp_path: Path, limited: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = small_data(size=200)
    assert find_batch_size(small_trainer(tmp_path), small_module(), data) == data.local_batch_size == 16
    assert "local_batch_size 16: memory is the bound, 24 fitted" in capsys.readouterr().out


def test_the_data_may_be_the_bound(tmp_path: Path, limited: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_batch_size(small_trainer(tmp_path), small_module(micro_batch_size=10), small_data(size=47)) == 40
    assert "the data is the bound" in capsys.readouterr().out


def test_the_model_is_left_as_it_was(tmp_path: Path, limited: Any) -> None:
    module = small_module()
    module.configure_model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    find_batch_size(small_trainer(tmp_path), module, small_data(size=64))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_nothing_fits(tmp_path: Path, limited: Any) -> None:
    with pytest.raises(InputError, match="not even a batch of 40 fits into the memory of cpu: set a smaller micro_batch_size"):
        find_batch_size(small_trainer(tmp_path), small_module(micro_batch_size=40, execution=None), small_data(size=90))


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ClipModule, batch: PairBatch) -> ClipOutput:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(ClipModule, "encode", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        find_batch_size(small_trainer(tmp_path), small_module(), small_data())


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from lightning_clip.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
model:
  image_encoder: {{name: vit_tiny_patch16_224, image_size: 32, depth: 1, embed_dim: 32, num_heads: 2}}
  text_encoder: {{name: clip_text, width: 32, layers: 1, heads: 2}}
  embed_dim: 16
data: {{train: {{name: synthetic, size: 40, image_size: 32}}, local_batch_size: 4}}
trainer: {{max_epochs: 2, accelerator: cpu, devices: 1, logger: false, default_root_dir: {tmp_path}}}
"""
    )
    assert main(["fit", "--config", str(recipe), "--find-batch-size"]) == 0
    assert "local_batch_size 40: the data is the bound, 40 fitted" in capfd.readouterr().out


def test_classes_are_those_of_the_data(tmp_path: Path) -> None:
    module = ClassifierModule(IMAGE, TEXT, **GIVEN)
    assert find_batch_size(small_trainer(tmp_path), module, labelled_data(shots=4)) == 32
    assert module.class_names == combination_names(held_out=True)
