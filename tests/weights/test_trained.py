"""Models opened for use: without Lightning where that goes, the same as the module's in every case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small import save_checkpoint, small_module
from torch import Tensor, nn
from waiting import PATIENCE

from lightning_clip import ClipModule, InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.export.export import export
from lightning_clip.loading import open_for_use, open_module, open_predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective, objectives
from lightning_clip.weights.trained import TrainedModel

PIXELS = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TEXTS = ["a dog", "a rather long caption of a cat"]
PAGE = """
import sys
from lightning_clip.cli import main
image, *sources, folder = sys.argv[1:]
for source in sources:
    assert main(["classify", image, "--labels", "cat,dog", "--checkpoint", source]) == 0, source
assert main(["export", sources[0], "--format", "safetensors", "--output", folder]) == 0
found = [name for name in ("lightning", "torchmetrics", "matplotlib") if name in sys.modules]
assert not found, found
"""


@objectives.register("length_of_text")
class LengthOfText(Objective):
    """Has a part of its own, a temperature that is not learned, and learns nothing of the image tower."""

    def reads(self) -> tuple[str, ...]:
        return ("text",)

    def build(self, space: SharedSpace) -> None:
        space.length = nn.Linear(space.embed_dim, 1)

    def learns(self) -> tuple[str, ...]:
        return ("text_", "length.")

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        raise NotImplementedError


class Sub(ClipModule):
    """A user's own."""


def same(found: Any, module: Any) -> None:
    """Weights, features and what builds it again."""
    state, expected = found.state_dict(), module.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    if "image" in module.model.columns:
        assert torch.equal(found.predictor.encode_image(PIXELS), module.predictor.encode_image(PIXELS))
    assert torch.equal(found.predictor.encode_text(TEXTS), module.predictor.encode_text(TEXTS))
    assert not found.model.training
    mapping = module.to_mapping()
    assert found.to_mapping() == {key: mapping[key] for key in found.to_mapping()}
    learned = [name for name, parameter in module.model.named_parameters() if parameter.requires_grad]
    assert [name for name, parameter in found.model.named_parameters() if parameter.requires_grad] == learned


class TestTheSameAsTheModule:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"objective": "sigmoid", "projection": "mlp", "transform": {"mean": [0.5] * 3}},
            {"objective": ["pairs", "length_of_text"]},
            {"objective": ["length_of_text"]},
            {"execution": {"text_chunks": 1, "channels_last": True}},
        ],
        ids=["plain", "sigmoid", "parts", "frozen", "execution"],
    )
    def test_checkpoint(self, settings: dict[str, Any], tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", small_module(**settings))
        found = open_for_use(path)
        assert isinstance(found, TrainedModel)
        same(found, open_module(path))

    def test_folder(self, tmp_path: Path) -> None:
        export(small_module(), "safetensors", tmp_path / "mine")
        found = open_for_use(tmp_path / "mine")
        assert isinstance(found, TrainedModel)
        same(found, open_module(tmp_path / "mine"))
        images = [Image.new("RGB", (50, 40), (200, 30, 30))]
        expected = open_module(tmp_path / "mine").predictor.scores(images, ["cat", "dog"])
        assert torch.equal(open_predictor(tmp_path / "mine").scores(images, ["cat", "dog"]), expected)

    def test_export_of_it(self, tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt")
        for name, source in (("one", open_for_use(path)), ("two", open_module(path))):
            assert export(source, "safetensors", tmp_path / name).image_difference == 0
        for file in ("model.safetensors", "lightning_clip.json"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


class TestOthers:
    def test_a_subclass_is_opened_as_such(self, tmp_path: Path) -> None:
        module = Sub(**{key: value for key, value in small_module().to_mapping().items() if key != "training"})
        assert isinstance(open_for_use(save_checkpoint(tmp_path / "a.ckpt", module)), Sub)

    @pytest.mark.parametrize(
        "adapt",
        [{"image": {"lock": True}, "store": "full"}, {"image": {"lora": {"rank": 2}}, "store": "full"}],
        ids=["lock", "lora"],
    )
    def test_an_adapted_model_is_opened_as_a_module(self, adapt: dict[str, Any], tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", small_module(adapt=adapt))
        assert isinstance(open_for_use(path), ClipModule)

    def test_mistakes_are_said_as_ever(self, tmp_path: Path) -> None:
        content = torch.load(save_checkpoint(tmp_path / "a.ckpt"), weights_only=True)
        del content["state_dict"]["model.logit_scale"]
        torch.save(content, tmp_path / "less.ckpt")
        with pytest.raises(InputError, match=r"does not fit ClipModule: Missing key.*logit_scale"):
            open_for_use(tmp_path / "less.ckpt")
        (tmp_path / "cut.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:1000])
        with pytest.raises(InputError, match="is no complete checkpoint"):
            open_for_use(tmp_path / "cut.ckpt")
        with pytest.raises(InputError, match=r"model .* does not exist"):
            open_for_use(tmp_path / "gone")
        content["state_dict"]["model.logit_scale"] = torch.tensor([torch.nan])
        torch.save(content, tmp_path / "nan.ckpt")
        with pytest.raises(InputError, match="are NaN or infinite"):
            open_for_use(tmp_path / "nan.ckpt")


def test_classify_and_export_start_without_lightning(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "a.ckpt")
    export(small_module(), "safetensors", tmp_path / "mine")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    given = [str(tmp_path / name) for name in ("x.png", checkpoint.name, "mine", "exported")]
    done = subprocess.run([sys.executable, "-c", PAGE, *given], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
