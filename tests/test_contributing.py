"""CONTRIBUTING.md's examples run as they stand, from one file each, and are as short as it says."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from strategies.ranks import _ranks
from torch import Tensor
from torch.nn.functional import normalize
from variants.senses import Senses, batch_of, error_of, gradients, module_of, share
from waiting import free_port

from lightning_clip import ClipDataModule, ClipModule, ZeroShotClassification
from lightning_clip.cli import main

TEXT_OF_GUIDE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", TEXT_OF_GUIDE, re.S))
CLAIMED = {
    name: int(count) for count, name in re.findall(r"One file, (\d+) lines.*?<!-- example: (\w+) -->", TEXT_OF_GUIDE, re.S)
}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleType:
    """The example as a module of its own, imported from a file."""
    name = f"contributed_{request.param}"
    file = tmp_path / f"{name}.py"
    file.write_text(EXAMPLES[request.param])
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["encoder", "loss", "source", "evaluation"])
def test_line_count_is_true(name: str) -> None:
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip()]
    assert len(lines) == CLAIMED[name] <= 16
    if name == "encoder":
        assert len(lines) <= 12


@pytest.mark.parametrize("example", ["encoder"], indirect=True)
def test_encoder(example: ModuleType, tmp_path: Path) -> None:
    module = small_module(image_encoder="mean_colour")
    trainer = small_trainer(tmp_path)
    trainer.fit(module, small_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(again.encode_image(images), module.encode_image(images))


@pytest.mark.parametrize("example", ["loss"], indirect=True)
class TestLoss:
    MARGIN: ClassVar[dict[str, Any]] = {"name": "margin", "margin": 0.25}

    def test_trains_and_is_in_the_checkpoint(self, example: ModuleType, tmp_path: Path) -> None:
        module = ClipModule(IMAGE, TEXT, embed_dim=16, objective=self.MARGIN, training={"optimizer": {"warmup_steps": 0}})
        trainer = small_trainer(tmp_path)
        trainer.fit(module, small_data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        loss: Any = again.objective.loss
        assert type(loss) is example.MarginLoss and loss.margin == 0.25

    def test_is_the_formula(self, example: ModuleType) -> None:
        generator = torch.Generator().manual_seed(0)
        images, texts = (normalize(torch.randn(5, 7, generator=generator).double(), dim=1) for _ in range(2))
        total = 0.0
        for rows, columns in ((images, texts), (texts, images)):
            for i in range(5):
                logits = [9.0 * (float(rows[i] @ columns[j]) - 0.25 * (i == j)) for j in range(5)]
                total += math.log(sum(math.exp(logit - logits[i]) for logit in logits)) / 5
        found = example.MarginLoss(0.25)(images, texts, torch.tensor([9.0]).double())
        assert found.item() == pytest.approx(total, rel=1e-12)

    def test_gradients_on_uneven_ranks_are_those_of_one_process(self, example: ModuleType) -> None:
        """Ranks hold 8 and 4 different samples; gradients are averaged over ranks as DDP does."""
        module = module_of("pairs", objective=self.MARGIN)
        expected = gradients(module, batch_of(module, Senses()))
        for found in run_ranks(self._on_rank, 2, self.MARGIN):
            assert error_of(found, expected) <= 1e-6

    @staticmethod
    def _on_rank(rank: int, world_size: int, objective: dict[str, Any]) -> dict[str, Tensor]:
        module = module_of("pairs", objective=objective)
        return gradients(module, share(batch_of(module, Senses()), rank, 8))

    def test_ranks_with_unequal_numbers_of_batches_validate(self, example: ModuleType, tmp_path: Path) -> None:
        """33 samples in batches of 16 are two batches on one rank and one on the other: none may wait for the other."""
        batches = run_ranks(_validated, 2, free_port(), tmp_path, self.MARGIN)
        assert sorted(batches) == [[16], [16, 1]]


def _validated(rank: int, world_size: int, port: int, folder: Path, objective: dict[str, Any]) -> list[int]:
    """The sizes of the batches that a rank has scored."""
    _ranks(rank, world_size, port)
    module = small_module(objective=objective)
    sizes: list[int] = []
    loss: Any = module.objective.loss
    loss.register_forward_hook(lambda module, inputs, found: sizes.append(len(inputs[0])))
    trainer = small_trainer(folder, strategy="ddp", devices=world_size)
    trainer.validate(module, small_data(33), verbose=False)
    assert trainer.callback_metrics["val/loss"].isfinite()
    return sizes


@pytest.mark.parametrize("example", ["source"], indirect=True)
def test_source(example: ModuleType, tmp_path: Path) -> None:
    small_trainer(tmp_path).fit(small_module(), ClipDataModule({"name": "grey", "size": 40}, local_batch_size=8))


@pytest.mark.parametrize("example", ["evaluation"], indirect=True)
def test_evaluation(example: ModuleType, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, callbacks=[ZeroShotClassification({"parity": "parity"})])
    trainer.validate(small_module(), small_data(), verbose=False)
    assert 0 <= trainer.callback_metrics["val/zero_shot/parity/top1"] <= 1


RECIPE = f"""
model: {{image_encoder: {IMAGE}, text_encoder: {TEXT}, embed_dim: 16, training: {{optimizer: {{warmup_steps: 0}}}}}}
data:
  train: {{name: synthetic, size: 32, image_size: 32}}
  val: {{name: synthetic, split: val, size: 16, image_size: 32}}
  local_batch_size: 16
trainer:
  max_steps: 2
  accelerator: cpu
  devices: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: run
"""
OPTIONS = {
    "encoder": ["--model.image_encoder=mean_colour"],
    "loss": ["--model.objective={name: margin, margin: 0.2}"],
    "source": ["--data.train={name: grey, size: 32}"],
    "evaluation": [
        "--trainer.callbacks+=lightning_clip.ZeroShotClassification",
        "--trainer.callbacks.datasets={parity: parity}",
    ],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_on_the_command_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_names: None) -> None:
    """Each example as a file and one flag, without a line of Python; the checkpoint says what it needs."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(EXAMPLES[name])
    Path("recipe.yaml").write_text(RECIPE)
    assert main(["fit", "--import", "mine.py", "--config", "recipe.yaml", *OPTIONS[name]]) == 0
    (written,) = Path("run").rglob("*.ckpt")
    assert torch.load(written, weights_only=True)["lightning_clip_plugins"] == ["mine.py"]
