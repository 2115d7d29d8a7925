"""A diffusion model that was not trained with words, guided by a critic of what it is about to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_clip.applications.generation.ascent import Imagined
from lightning_clip.applications.generation.critic import Critic, Prompts
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.model.predictor import Predictor

__all__ = ["guided"]


def guided(
    predictor: Predictor,
    prompts: Prompts,
    denoiser: Callable[[Tensor, Any], Any],
    scheduler: Any,
    *,
    size: int,
    steps: int = 50,
    strength: float = 1.0,
    seed: int = 0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Imagined:
    r"""Samples a picture that is both likely under the diffusion model and like the words.

    In each step the critic sees the clean picture that the noisy one stands for, since models of pictures know no noise:
    :math:`\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) / \sqrt{\bar\alpha_t}`. The noise is predicted as
    :math:`\epsilon - \lambda \sqrt{1 - \bar\alpha_t}\, \nabla_{x_t} s(\hat x_0)` (Dhariwal & Nichol 2021, algorithm 2; Bansal
    et al. 2023, Universal Guidance, equation 6).

    Args:
        predictor: of the model that judges.
        prompts: a text, or texts with weights; see `Critic`.
        denoiser: noisy pictures (1, 3, size, size) in about [-1, 1] and a timestep -> the noise in them, as a tensor or as the
            `sample` of what diffusers' UNets return. It is on the predictor's device.
        scheduler: of diffusers, which predicts noise: `DDIMScheduler.from_pretrained(...)`.
        size: of the picture in pixels, as the denoiser draws it, at least 1.
        steps: of the sampling, at least 1.
        strength: of the guidance, at least 0; 0 samples what the diffusion model would.
        seed: of the noise at the start and between.
        watch: as for `imagine`; it sees the clean picture as it is guessed.

    Raises:
        InputError: a setting out of range, a scheduler that predicts something other than noise, or prompts as for `Critic`.

    Examples:
        >>> from diffusers import DDPMPipeline  # doctest: +SKIP
        >>> drawn = DDPMPipeline.from_pretrained("google/ddpm-cifar10-32")  # doctest: +SKIP
        >>> scheduler = DDIMScheduler.from_config(drawn.scheduler.config)  # doctest: +SKIP
        >>> guided(predictor, "a ship", drawn.unet, scheduler, size=32).image  # doctest: +SKIP
    """
    in_range("size", size, 1, whole=True)
    in_range("steps", steps, 1, whole=True)
    in_range("strength", strength, 0)
    kind = scheduler.config.prediction_type
    if kind != "epsilon":
        raise InputError(f"the scheduler predicts {kind!r}: take one whose prediction_type is 'epsilon'")
    critic, device = Critic(predictor, prompts), predictor.device
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    noisy = torch.randn(1, 3, size, size, generator=generator).to(device) * float(scheduler.init_noise_sigma)
    clean, scores = noisy, []
    for step, time in enumerate(scheduler.timesteps, start=1):
        noise, clean, score = _predicted(denoiser, scheduler, critic, noisy, time, strength)
        scores.append(score)
        noisy = scheduler.step(noise, time, noisy, generator=generator).prev_sample
        if watch is not None:
            watch(step, clean[0])
    picture = ((noisy[0] + 1) / 2).clamp(0, 1)
    return Imagined((picture * 255).round().to(torch.uint8).cpu(), scores)


def _predicted(
    denoiser: Callable[[Tensor, Any], Any], scheduler: Any, critic: Critic, noisy: Tensor, time: Tensor, strength: float
) -> tuple[Tensor, Tensor, float]:
    """Of one step: the noise (1, 3, S, S) with guidance, the clean picture (1, 3, S, S) in [0, 1], and its score."""
    kept = float(scheduler.alphas_cumprod[time])
    with torch.enable_grad():
        seen = noisy.detach().requires_grad_()
        found = denoiser(scheduler.scale_model_input(seen, time), time)
        noise: Tensor = found if isinstance(found, Tensor) else found.sample
        clean = ((seen - (1 - kept) ** 0.5 * noise) / kept**0.5 + 1) / 2
        score = critic(clean.clamp(0, 1)).sum()
        (slope,) = torch.autograd.grad(score, seen)
    guided_noise = noise.detach() - strength * (1 - kept) ** 0.5 * slope
    return guided_noise, clean.detach().clamp(0, 1), float(score.detach())
