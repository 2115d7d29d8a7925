"""`imagine`: a picture that a model finds most like some words, by following the gradient of their similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_clip.applications.generation.canvases import Canvas, canvases
from lightning_clip.applications.generation.critic import Critic, Judges, Prompts
from lightning_clip.core.settings import in_range

__all__ = ["Imagined", "imagine"]


class Imagined(NamedTuple):
    """A picture that was made.

    Attributes:
        image: uint8 (3, S, S).
        scores: of the views of each step, the mean: cosine similarity in [-1, 1], or the margin of it over other texts.
    """

    image: Tensor
    scores: list[float]


def imagine(
    predictor: Judges,
    prompts: Prompts,
    *,
    against: Sequence[str] = (),
    canvas: str | Mapping[str, Any] | Canvas = "resolutions",
    steps: int = 200,
    views: int = 8,
    shift: float = 0.15,
    noise: float = 0.02,
    rate: float | None = None,
    seed: int = 0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Imagined:
    """Makes a picture of words by ascent alone: no generator is trained.

    Each step looks at several views of the picture, moved at random and with noise on them. A pattern that works at one place
    only, as adversarial ones do, gains nothing on average (Fort & Whitaker 2025, Direct Ascent Synthesis).

    Args:
        predictor: of the model that judges, or several, whose scores are averaged; the picture has the first one's size.
        prompts: a text, or texts with weights; see `Critic`.
        against: other texts, over which the margin is to grow; see `Critic`.
        canvas: a name ("resolutions", "fourier"), a mapping with its options, or a `Canvas` of one's own, say a generator.
        steps: at least 1.
        views: of each step, at least 1.
        shift: by how much a view is moved at most, in [0, 0.5) of the picture's side.
        noise: standard deviation of the noise of a view, at least 0; pixels go from 0 to 1.
        rate: of learning, above 0; None takes the canvas' own.
        seed: of shifts and noise.
        watch: is called after each step with its number from 1 and the picture (3, S, S) in [0, 1].

    Raises:
        InputError: a setting out of range, an unknown canvas, or prompts as for `Critic`.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> found = imagine(module.predictor, {"a blue ring": 1.0, "a star": -0.5}, steps=3, views=2)
        >>> found.image.shape, len(found.scores)
        (torch.Size([3, 32, 32]), 3)
    """
    for name, value in {"steps": steps, "views": views}.items():
        in_range(name, value, 1, whole=True)
    in_range("shift", shift, 0, 0.5, open_high=True)
    in_range("noise", noise, 0)
    in_range("seed", seed, 0, 2**63 - 1, whole=True)
    if rate is not None:
        in_range("rate", rate, 0, open_low=True)
    critic = Critic(predictor, prompts, against)
    size, margin = critic.size, round(shift * critic.size)
    drawn = canvas if isinstance(canvas, Canvas) else canvases.build(canvas, side=size + 2 * margin)
    drawn = drawn.to(critic.device)
    parameters = [parameter for parameter in drawn.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate or drawn.rate)
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for step in range(1, steps + 1):
        picture = drawn()
        seen = _views(picture, views, margin, generator)
        score = critic(seen + noise * torch.randn(seen.shape, generator=generator).to(seen.device)).mean()
        for parameter, slope in zip(parameters, torch.autograd.grad(-score, parameters), strict=True):
            parameter.grad = slope
        optimizer.step()
        scores.append(float(score.detach()))
        if watch is not None:
            watch(step, _middle(drawn, margin))
    return Imagined((_middle(drawn, margin) * 255).round().to(torch.uint8).cpu(), scores)


def _views(picture: Tensor, count: int, margin: int, generator: torch.Generator) -> Tensor:
    """The picture (1, 3, H, W) moved by up to `margin` pixels each way: (V, 3, H - 2 margin, W - 2 margin)."""
    height, width = (side - 2 * margin for side in picture.shape[-2:])
    places = torch.randint(0, 2 * margin + 1, (count, 2), generator=generator).tolist()
    return torch.cat([picture[:, :, top : top + height, left : left + width] for top, left in places])


def _middle(canvas: Canvas, margin: int) -> Tensor:
    """What is shown of a canvas: (3, S, S) in [0, 1]."""
    with torch.no_grad():
        picture: Tensor = canvas()[0].clamp(0, 1)
    return picture[:, margin : picture.shape[1] - margin, margin : picture.shape[2] - margin]
