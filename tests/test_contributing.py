"""CONTRIBUTING.md's examples run as they stand, from one file each, and are as short as it says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small import IMAGE, TEXT, small_data, small_module, small_trainer

from lightning_clip import ClipDataModule, ClipModule, ZeroShotClassification

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
    assert len(lines) == CLAIMED[name] <= 13
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
def test_loss(example: ModuleType, tmp_path: Path) -> None:
    module = ClipModule(IMAGE, TEXT, embed_dim=16, objective="distance", training={"optimizer": {"warmup_steps": 0}})
    small_trainer(tmp_path).fit(module, small_data())
    assert type(module.loss).__name__ == "DistanceLoss"


@pytest.mark.parametrize("example", ["source"], indirect=True)
def test_source(example: ModuleType, tmp_path: Path) -> None:
    small_trainer(tmp_path).fit(small_module(), ClipDataModule({"name": "grey", "size": 40}, local_batch_size=8))


@pytest.mark.parametrize("example", ["evaluation"], indirect=True)
def test_evaluation(example: ModuleType, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, callbacks=[ZeroShotClassification({"parity": "parity"})])
    trainer.validate(small_module(), small_data(), verbose=False)
    assert 0 <= trainer.callback_metrics["val/zero_shot/parity/top1"] <= 1
