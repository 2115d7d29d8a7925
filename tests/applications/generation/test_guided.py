"""Guided diffusion: diffusers' scheduler, a denoiser in closed form, and a critic that pulls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import small_module
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.applications.generation import Critic, guided
from lightning_clip.model.predictor import Predictor

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return small_module().predictor


def scheduler(**options: Any) -> Any:
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **options)


class OfPictures:
    """The best denoiser there is of pictures that are independent normal values: mean m, standard deviation d.

    E[noise | x] = sqrt(1 - a) (x - sqrt(a) m) / (a d^2 + 1 - a).
    """

    def __init__(self, mean: float, deviation: float, alphas: Tensor) -> None:
        self.mean, self.deviation, self.alphas = mean, deviation, alphas

    def __call__(self, noisy: Tensor, time: Tensor) -> Any:
        kept = self.alphas[time]
        spread = kept * self.deviation**2 + 1 - kept
        return SimpleNamespace(sample=(1 - kept).sqrt() * (noisy - kept.sqrt() * self.mean) / spread)


def drawn(predictor: Predictor, **options: Any) -> Any:
    steps = scheduler()
    denoiser = OfPictures(0.2, 0.25, steps.alphas_cumprod)
    return guided(predictor, "a ring", denoiser, steps, **{"size": 32, "steps": 20, **options})


def test_without_guidance_it_samples_what_the_model_knows(predictor: Predictor) -> None:
    pixels = drawn(predictor, strength=0.0, steps=100).image.double() / 255 * 2 - 1
    assert pixels.mean() == pytest.approx(0.2, abs=0.03) and pixels.std() == pytest.approx(0.25, abs=0.03)


def test_guidance_pulls_towards_the_words(predictor: Predictor) -> None:
    critic = Critic(predictor, "a ring")
    scores = [float(critic(drawn(predictor, strength=strength).image[None] / 255)) for strength in (0.0, 30.0, 100.0)]
    assert scores == sorted(scores) and scores[2] > scores[0] + 0.05


def test_one_step_is_the_formula(predictor: Predictor) -> None:
    """The noise that the scheduler gets, against slopes taken by differences."""
    given: list[Tensor] = []
    steps = scheduler()
    usual = steps.step

    def step(noise: Tensor, *others: Any, **options: Any) -> Any:
        given.append(noise)
        return usual(noise, *others, **options)

    steps.step = step
    denoiser = OfPictures(0.2, 0.25, steps.alphas_cumprod)
    guided(predictor, "a ring", denoiser, steps, size=32, steps=1, strength=3.0, seed=5)
    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    (time,) = steps.timesteps
    kept = steps.alphas_cumprod[time]
    critic = Critic(predictor, "a ring")

    def score(x: Tensor) -> Tensor:
        clean = (x - (1 - kept).sqrt() * denoiser(x, time).sample) / kept.sqrt()
        return critic(((clean + 1) / 2).clamp(0, 1))

    slope = (denoiser(noisy, time).sample - given[0]) / (3.0 * (1 - kept).sqrt())
    move = slope / slope.norm()
    measured = (score(noisy + 0.01 * move) - score(noisy - 0.01 * move)) / 0.02
    assert float(measured) == pytest.approx(float(slope.norm()), rel=0.02)


def test_a_unet(predictor: Predictor) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    seen: list[int] = []
    options = {"size": 16, "steps": 3, "watch": lambda step, picture: seen.append(step)}
    one, two = (guided(predictor, "a ring", unet, diffusers.DDPMScheduler(), **options) for _ in range(2))
    assert one.image.shape == (3, 16, 16) and torch.equal(one.image, two.image) and seen == [1, 2, 3, 1, 2, 3]
    assert all(value.grad is None for value in unet.parameters())


def test_errors(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="the scheduler predicts 'v_prediction': take one whose prediction_type is 'epsilon'"):
        guided(predictor, "a ring", lambda x, t: x, scheduler(prediction_type="v_prediction"), size=8)
    for options, error in (
        ({"size": 0}, "size 0 must"),
        ({"steps": 0}, "steps 0 must"),
        ({"strength": -1}, "strength -1 must"),
    ):
        with pytest.raises(InputError, match=error):
            drawn(predictor, **options)
