"""Pictures made of words: canvases against closed forms, the critic against features, the ascent, the command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import save_checkpoint, small_module
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.applications.generation import Canvas, Critic, Fourier, Generated, Resolutions, canvases, imagine
from lightning_clip.cli import main
from lightning_clip.commands.imagine import weighed
from lightning_clip.model.predictor import Predictor

SMALL: dict[str, Any] = {"steps": 6, "views": 2}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return small_module().predictor


class TestCanvases:
    @pytest.mark.parametrize("name", ["resolutions", "fourier"])
    def test_begin_grey_and_stay_pictures(self, name: str) -> None:
        canvas = canvases.build(name, side=20)
        torch.testing.assert_close(canvas(), torch.full((1, 3, 20, 20), 0.5))
        for value in canvas.parameters():
            torch.nn.init.normal_(value, std=30.0)
        assert canvas().shape == (1, 3, 20, 20) and canvas().min() >= 0 and canvas().max() <= 1

    @pytest.mark.parametrize("name", ["resolutions", "fourier"])
    def test_begin_at_another_grey(self, name: str) -> None:
        torch.testing.assert_close(canvases.build(name, side=8, start=0.9)(), torch.full((1, 3, 8, 8), 0.9))

    def test_each_resolution_counts_alike(self) -> None:
        """A constant in one layer, whatever its size, is a constant in the picture."""
        for place in range(5):
            canvas = Resolutions(16, layers=5)
            canvas.layers[place].data.fill_(0.7)
            torch.testing.assert_close(canvas(), torch.full((1, 3, 16, 16), 0.5 + 0.5 * math.tanh(0.7)))

    def test_what_helps_everywhere_moves_the_coarsest_most(self) -> None:
        canvas = Resolutions(16, layers=4)
        canvas().sum().backward()
        slopes = [float(layer.grad.abs().mean()) for layer in canvas.layers]  # type: ignore[union-attr]
        assert slopes == sorted(slopes, reverse=True) and slopes[0] == pytest.approx(16 * 16 / 2, rel=1e-5)

    def test_waves(self) -> None:
        """One wave of 2 cycles down and 1 across, against the cosine itself."""
        canvas = Fourier(12, decay=1.5)
        canvas.waves.data[0, 1, 2, 1] = torch.tensor([0.3, -0.2])
        rows, columns = np.mgrid[:12, :12] / 12
        weight = 2 * (2**2 + 1**2) ** (-1.5 / 2)  # of a wave and of the one that mirrors it
        angle = 2 * np.pi * (2 * rows + columns)
        expected = 1 / (1 + np.exp(-2 * weight * (0.3 * np.cos(angle) + 0.2 * np.sin(angle))))
        assert np.abs(canvas()[0, 1].detach().double().numpy() - expected).max() <= 1e-6
        torch.testing.assert_close(canvas()[0, 0], torch.full((12, 12), 0.5))

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="unknown canvas 'oil'"):
            canvases.build("oil", side=8)
        with pytest.raises(InputError, match=r"canvas layers 0 must be"):
            Resolutions(8, layers=0)
        with pytest.raises(InputError, match=r"canvas decay -1 must be"):
            Fourier(8, decay=-1)
        for canvas in (Resolutions, Fourier):
            with pytest.raises(InputError, match=r"canvas start 1 must be"):
                canvas(8, start=1)


class TestCritic:
    def test_similarities_by_weight(self, predictor: Predictor) -> None:
        pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        scores = Critic(predictor, {"a ring": 3.0, "a star": -1.0})(pictures / 255)
        images, texts = predictor.encode_image(pictures), predictor.encode_text(["a ring", "a star"])
        torch.testing.assert_close(scores, images @ texts.T @ torch.tensor([0.75, -0.25]), rtol=0, atol=1e-6)

    def test_margin_over_others(self, predictor: Predictor) -> None:
        """Against sums in float64; what is wanted does not count as another."""
        pictures, others = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), ["a star", "a ring", "a cross"]
        scores = Critic(predictor, "a ring", others)(pictures / 255)
        images, texts, scale = predictor.encode_image(pictures), predictor.encode_text(others), float(predictor.scale())
        star, ring, cross = (images @ texts.T).double().numpy().T
        expected = ring - np.log((np.exp(scale * star) + np.exp(scale * cross)) / 2) / scale
        assert np.abs(scores.double().numpy() - expected).max() <= 1e-6

    def test_several_models_are_averaged(self, predictor: Predictor) -> None:
        torch.manual_seed(1)
        other, pictures = small_module().predictor, torch.rand(2, 3, 32, 32)
        both = Critic([predictor, other], "a ring")(pictures)
        one, two = (Critic(judge, "a ring")(pictures) for judge in (predictor, other))
        torch.testing.assert_close(both, (one + two) / 2)
        assert not torch.allclose(one, two)

    def test_no_model_or_no_text_among_others(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="predictor is an empty list: give at least one model"):
            Critic([], "a ring")
        for against in ("a star", ["a star", " "]):
            with pytest.raises(InputError, match="must be a list of texts, none of them empty"):
                Critic(predictor, "a ring", against)

    def test_slopes(self) -> None:
        """Against differences, in float64; none goes to the weights."""
        torch.manual_seed(0)
        module = small_module()
        predictor = module.predictor
        predictor.model.double()
        critic = Critic(predictor, "a ring")
        assert critic.judges[0].wanted.dtype == torch.float64
        picture = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(critic(picture).sum(), picture)
        step = torch.randn(picture.shape, dtype=torch.float64) * 1e-5
        with torch.no_grad():
            measured = (critic(picture + step) - critic(picture - step)) / 2
        assert float(measured) == pytest.approx(float((slope * step).sum()), rel=1e-4)
        assert all(value.grad is None for value in predictor.model.parameters())

    def test_pictures_of_another_size(self, predictor: Predictor) -> None:
        grey = torch.full((1, 3, 50, 70), 0.5)
        torch.testing.assert_close(Critic(predictor, "a ring")(grey), Critic(predictor, "a ring")(grey[:, :, :32, :32]))

    @pytest.mark.parametrize(
        ("prompts", "error"),
        [
            ("", "must be a text, or texts with their weights, none of them empty"),
            ({}, "must be a text, or texts with their weights"),
            ({"a ring": 1.0, " ": 1.0}, "none of them empty"),
            ({"a ring": -1.0}, "have no weight above 0: say what is wanted, too"),
        ],
    )
    def test_errors(self, predictor: Predictor, prompts: Any, error: str) -> None:
        with pytest.raises(InputError, match=error):
            Critic(predictor, prompts)


class TestAscent:
    @pytest.mark.parametrize("canvas", ["resolutions", {"name": "fourier", "decay": 0.8}])
    def test_rises(self, predictor: Predictor, canvas: Any) -> None:
        found = imagine(predictor, "a ring", canvas=canvas, steps=25, views=1, shift=0, noise=0)
        assert found.image.shape == (3, 32, 32) and found.image.dtype == torch.uint8 and len(found.scores) == 25
        assert found.scores[-1] > found.scores[0] + 0.1
        grey = torch.full((1, 3, 32, 32), 127, dtype=torch.uint8)
        text = predictor.encode_text("a ring")
        shown, before = (float(predictor.encode_image(image) @ text.T) for image in (found.image[None], grey))
        assert shown > before + 0.1

    def test_what_is_to_be_avoided_falls(self, predictor: Predictor) -> None:
        star = predictor.encode_text("a star")
        avoided, plain = (
            float(predictor.encode_image(imagine(predictor, prompts, steps=20, views=1, shift=0, noise=0).image[None]) @ star.T)
            for prompts in ({"a ring": 1.0, "a star": -1.0}, {"a ring": 1.0})
        )
        assert avoided < plain

    def test_the_margin_grows(self, predictor: Predictor) -> None:
        found = imagine(predictor, "a ring", against=["a star", "a cross"], steps=20, views=1, shift=0, noise=0)
        assert found.scores[-1] > found.scores[0] + 0.05

    def test_a_function_of_the_seed(self, predictor: Predictor) -> None:
        one, same, other = (imagine(predictor, "a ring", seed=seed, **SMALL) for seed in (1, 1, 2))
        assert torch.equal(one.image, same.image) and one.scores == same.scores and one.scores != other.scores

    def test_a_generator_of_ones_own(self, predictor: Predictor) -> None:
        """Only colours can be chosen: each channel stays one number."""

        def flat(code: Tensor) -> Tensor:
            return code.sigmoid().view(1, 3, 1, 1).expand(-1, -1, 32, 32)

        found = imagine(predictor, "a ring", canvas=Generated(flat, torch.zeros(1, 3)), shift=0.0, **SMALL)
        assert found.image.flatten(1).unique(dim=1).shape == (3, 1) and found.scores[-1] > found.scores[0]

    def test_each_step_is_watched_and_the_model_left_as_it_was(self, predictor: Predictor) -> None:
        seen: list[tuple[int, tuple[int, ...]]] = []
        predictor.model.train()
        imagine(predictor, "a ring", watch=lambda step, picture: seen.append((step, tuple(picture.shape))), **SMALL)
        assert seen == [(step, (3, 32, 32)) for step in range(1, 7)]
        assert all(layer.training for layer in predictor.model.modules())
        assert all(value.grad is None and value.requires_grad for value in predictor.model.parameters())

    def test_a_canvas_that_is_not_square(self, predictor: Predictor) -> None:
        class Wide(Canvas):
            def __init__(self) -> None:
                super().__init__()
                self.pixels = torch.nn.Parameter(torch.zeros(1, 3, 40, 60))

            def forward(self) -> Tensor:
                return self.pixels.sigmoid()

        assert imagine(predictor, "a ring", canvas=Wide(), shift=0.0, **SMALL).image.shape == (3, 40, 60)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"steps": 0}, "steps 0 must be"),
            ({"views": 1.5}, "views 1.5 must be"),
            ({"shift": 0.5}, "shift 0.5 must be"),
            ({"noise": -0.1}, "noise -0.1 must be"),
            ({"rate": 0.0}, "rate 0.0 must be"),
            ({"canvas": "oil"}, "unknown canvas 'oil'"),
        ],
    )
    def test_errors(self, predictor: Predictor, options: Any, error: str) -> None:
        with pytest.raises(InputError, match=error):
            imagine(predictor, "a ring", **options)


class TestCommand:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return str(save_checkpoint(tmp_path_factory.mktemp("imagine") / "last.ckpt"))

    def test_a_picture_and_a_sheet(self, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output, sheet = str(tmp_path / "ring.png"), str(tmp_path / "sheet.png")
        words = ("a ring", "--and", "blue=0.5", "--not", "a star")
        main(
            ["imagine", *words, "--checkpoint", model, "--output", output, "--progress", sheet, "--steps", "9", "--views", "2"]
        )
        assert Image.open(output).size == (32, 32) and Image.open(sheet).size[0] > 200
        assert "ring.png: cosine similarity" in capsys.readouterr().out

    def test_weights_behind_words(self) -> None:
        assert (
            weighed("a = b", 1.0) == ("a = b", 1.0)
            and weighed("a=.5", 1.0) == ("a", 0.5)
            and weighed("a=b=2", 1.0) == ("a=b", 2.0)
        )

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (["a ring", "--output", "ring.jpg"], "'ring.jpg' must end with .png"),
            ([" ", "--output", "ring.png"], "none of them empty"),
            (["a ring=0", "--output", "ring.png"], "no weight above 0"),
            (["a ring", "--output", "ring.png", "--device", "abacus"], "--device 'abacus' cannot be used"),
        ],
    )
    def test_errors(self, model: str, words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["imagine", *words, "--checkpoint", model]) == 2
        assert error in capsys.readouterr().err
