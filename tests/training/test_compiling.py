"""Towers are compiled block by block: equal blocks share a compilation, results and names stay."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_clip.encoders import ImageEncoder, image_encoders, text_encoders
from lightning_clip.encoders.base import Tower
from lightning_clip.encoders.chunks import encode_in_chunks
from lightning_clip.training import compiling
from lightning_clip.training.compiling import compile_for_run, compile_tower, pays
from lightning_clip.training.execution import ExecutionSettings, prepare

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts what is compiled, by a compiler that is done at once."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled(function, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()


def is_compiled(tower: Tower) -> bool:
    return all(block._compiled_call_impl is not None for block in tower.blocks())


def test_equal_blocks_of_an_image_tower_are_one_compilation(graphs: Any) -> None:
    torch.manual_seed(0)
    tower = image_encoders.build({**IMAGE, "depth": 4})
    image = torch.randn(2, 3, 32, 32)
    expected, names = tower(image).detach(), list(tower.state_dict())
    compile_tower(tower)
    found = tower(image)
    found.sum().backward()
    assert graphs["unique_graphs"] == 1
    torch.testing.assert_close(found.detach(), expected)
    assert list(tower.state_dict()) == names


class TestTrainingSteps:
    """Compilations are counted, by which the first steps of a run are slow."""

    def text(self) -> Any:
        torch.manual_seed(0)
        return text_encoders.build({**TEXT, "layers": 3, "vocab_size": 100})

    def captions(self, tower: Any, longest: int) -> Tensor:
        """Captions of another number and length each time, sorted into up to three chunks."""
        lengths = [4 + 3 * row % longest for row in range(60 + longest)]
        mask = torch.arange(64) < torch.tensor(lengths)[:, None]
        tokens = torch.arange(64).repeat(len(lengths), 1) * mask
        return encode_in_chunks(tower, tokens, mask, lengths, 3)

    def test_one_for_captions_of_any_length_and_one_for_images(self, graphs: Any) -> None:
        towers = {"image_encoder": {**IMAGE, "depth": 3}, "text_encoder": {**TEXT, "layers": 3}}
        model = small_module(**towers, tokenizer={"name": "clip"})
        model.configure_model()
        prepare(model.model, ExecutionSettings(compile=True))  # with the hook that halves the residual
        for longest in (40, 20, 60):
            with torch.autocast("cpu", torch.bfloat16):
                found = self.captions(model.model.text_encoder, longest)
                image = model.model.image_encoder(torch.randn(4, 3, 32, 32))
            (found.sum() + image.sum()).backward()
            assert graphs["unique_graphs"] == 2

    def test_results_and_gradients_stay(self, graphs: Any) -> None:
        tower, plain = self.text(), self.text()
        compile_tower(tower)
        for longest in (40, 20):
            found, expected = self.captions(tower, longest), self.captions(plain, longest)
            torch.testing.assert_close(found, expected)
            found.square().sum().backward()
            expected.square().sum().backward()
        for (name, one), other in zip(tower.named_parameters(), plain.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            assert (one.grad - other.grad).norm() <= 2e-6 * other.grad.norm(), name

    def test_evaluation_needs_none_where_only_training_is_compiled(self, graphs: Any) -> None:
        tower = self.text()
        compile_tower(tower, training_only=True)
        with torch.no_grad():
            self.captions(tower, 20)
        assert not graphs["unique_graphs"]

    def test_hooks_are_called_once(self, graphs: Any) -> None:
        tower, calls = image_encoders.build({**IMAGE, "depth": 3}), []
        compile_tower(tower)
        for block in tower.blocks():
            block.register_forward_hook(lambda *_: calls.append(1))
        tower(torch.randn(2, 3, 32, 32))
        assert len(calls) == 3

    def test_copies_are_not_compiled_and_have_weights_of_their_own(self, graphs: Any) -> None:
        tower = image_encoders.build({**IMAGE, "depth": 3})
        compile_tower(tower)
        image = torch.randn(2, 3, 32, 32)
        before = tower(image)
        copied = copy.deepcopy(tower)
        with torch.no_grad():
            for weight in tower.parameters():
                weight.zero_()
        torch.testing.assert_close(copied(image), before)
        assert not is_compiled(copied)

    def test_blocks_that_are_computed_again_in_backward(self, graphs: Any) -> None:
        tower, plain = self.text(), self.text()
        tower.checkpoint_blocks()
        compile_tower(tower)
        for one in (tower, plain):
            self.captions(one, 20).square().sum().backward()
        torch.testing.assert_close(tower.token_embedding.weight.grad, plain.token_embedding.weight.grad)


def test_a_tower_without_blocks_is_compiled_as_a_whole(graphs: Any) -> None:
    class Mean(ImageEncoder):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean(dim=(2, 3))

    tower = Mean(output_dim=3, image_size=4)
    compile_tower(tower)
    assert tower(torch.ones(2, 3, 4, 4)).tolist() == [[1.0] * 3] * 2
    assert graphs["unique_graphs"] == 1


class Blocks(ImageEncoder):
    """A tower of so many parameters, which are on no device."""

    def __init__(self, weights: int) -> None:
        super().__init__(output_dim=3, image_size=4)
        self.block = nn.Linear(weights, 1, bias=False, device="meta")

    def forward(self, image: Tensor) -> Tensor:
        return image

    def blocks(self) -> list[nn.Module]:
        return [self.block]


class TestAuto:
    def test_by_device_size_and_steps(self) -> None:
        large, small = Blocks(compiling.LEAST_WEIGHTS), Blocks(compiling.LEAST_WEIGHTS - 1)
        assert pays(large, CUDA, compiling.LEAST_STEPS) and pays(large, CUDA, float("inf"))
        assert not pays(small, CUDA, 10**6) and not pays(large, CUDA, compiling.LEAST_STEPS - 1)
        assert not pays(large, torch.device("cpu"), 10**6)

    def test_compiles_what_pays_and_says_so(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        module = small_module(image_encoder={**IMAGE, "depth": 3})
        module.configure_model()
        monkeypatch.setattr(compiling, "LEAST_WEIGHTS", sum(p.numel() for p in module.model.image_encoder.parameters()) // 2)
        monkeypatch.setattr(compiling, "_has_compiler", lambda: True)
        with caplog.at_level(logging.INFO):
            compile_for_run(module.model, CUDA, 10**6)
        assert is_compiled(module.model.image_encoder) and not is_compiled(module.model.text_encoder)
        assert caplog.messages == ["execution.compile 'auto' compiles the blocks of image"]

    @pytest.mark.parametrize("asked", [False, True], ids=["auto", "asked for"])
    def test_a_machine_that_cannot_compile(
        self, asked: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(*_: Any) -> Any:
            raise RuntimeError("no C compiler found")

        uncompiled = torch.compile.__closure__[0].cell_contents  # type: ignore[attr-defined]
        monkeypatch.setattr(torch, "compile", lambda function: uncompiled(function, backend=fails))
        tower, image = image_encoders.build({**IMAGE, "depth": 3}), torch.randn(2, 3, 32, 32)
        expected = tower(image)
        compile_tower(tower, training_only=not asked)
        if asked:
            with pytest.raises(Exception, match="no C compiler found"):
                tower(image)
            return
        for _ in range(2):
            torch.testing.assert_close(tower(image), expected)
        found = [record.message for record in caplog.records if "leaves a tower uncompiled" in record.message]
        assert len(found) == 1 and "no C compiler found" in found[0] and "\n" not in found[0]

    def test_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        module = small_module()
        module.configure_model()
        monkeypatch.setattr(compiling, "LEAST_WEIGHTS", 0)
        monkeypatch.setattr(compiling, "_has_compiler", lambda: False)
        compile_for_run(module.model, CUDA, 10**6)
        assert not is_compiled(module.model.text_encoder) and "'auto' compiles nothing: Triton is not" in caplog.text

    @pytest.mark.parametrize(("setting", "expected"), [("auto", [(2, "cpu")]), (False, [])], ids=str)
    def test_is_asked_when_a_training_begins(
        self, setting: Any, expected: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(
            "lightning_clip.module.learning.compile_for_run", lambda model, device, steps: asked.append((steps, device.type))
        )
        trainer = small_trainer(tmp_path, max_steps=2, limit_val_batches=0)
        trainer.fit(small_module(execution={"compile": setting}), small_data(size=32))
        assert asked == expected
