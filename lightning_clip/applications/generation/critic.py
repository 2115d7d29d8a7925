"""`Critic`: how much pictures are like several prompts, with gradients by the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.core.errors import InputError
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.predictor import Predictor

__all__ = ["Critic", "Judges", "Prompts"]

# One model, or several whose scores are averaged.
Judges = Predictor | Sequence[Predictor]
# One text, or texts with their weights; what has a negative one is to be avoided.
Prompts = str | Mapping[str, float]


class Critic:
    r"""Scores of pictures: the weighted sum of cosine similarities to texts, weights divided by the sum of their sizes.

    With `against` it is the margin by which this exceeds the similarity to other texts, of which the nearest count most:

    .. math:: s(x) = w \cdot x - \tfrac{1}{t} \log \tfrac{1}{N} \sum_j e^{t\, a_j \cdot x}

    with t the model's own scale. A cosine alone grows by all that pictures of such texts have in common; a margin grows only by
    what sets one apart from the others. The mean over several models keeps what they agree on.

    Args:
        predictor: of a model with towers of images and of texts, or several of them.
        prompts: a text, or texts with weights: {"a blue ring": 1, "a star": -0.5}.
        against: what else might be shown; those that are among the prompts do not count.

    Raises:
        InputError: no model, no text, an empty one, or no weight above 0.
    """

    def __init__(self, predictor: Judges, prompts: Prompts, against: Sequence[str] = ()) -> None:
        weights = {prompts: 1.0} if isinstance(prompts, str) else dict(prompts)
        if not weights or not all(text.strip() for text in weights):
            raise InputError(f"prompts {prompts!r} must be a text, or texts with their weights, none of them empty")
        if not any(weight > 0 for weight in weights.values()):
            raise InputError(f"prompts {prompts!r} have no weight above 0: say what is wanted, too")
        if isinstance(against, str) or not all(text.strip() for text in against):
            raise InputError(f"against {against!r} must be a list of texts, none of them empty")
        predictors = [predictor] if isinstance(predictor, Predictor) else list(predictor)
        if not predictors:
            raise InputError("predictor is an empty list: give at least one model to judge")
        others = [text for text in against if text not in weights]
        self.judges = [_Judge(one, weights, others) for one in predictors]
        self.size, self.device = predictors[0].image_size, predictors[0].device

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> scores (B,); gradients flow to the pictures, none to the weights."""
        return torch.stack([judge(pictures).to(self.device) for judge in self.judges]).mean(dim=0)  # (J, B) -> (B,)


class _Judge:
    """One model's scores."""

    def __init__(self, predictor: Predictor, weights: Mapping[str, float], others: Sequence[str]) -> None:
        self.predictor, self.model = predictor, predictor.model
        texts = predictor.encode_text(list(weights))  # (T, D)
        sizes = torch.tensor(list(weights.values()), device=texts.device, dtype=texts.dtype)
        self.wanted = (sizes / sizes.abs().sum()) @ texts  # (T,) @ (T, D) -> (D,)
        self.others = predictor.encode_text(list(others)) if others else None  # (N, D)
        self.scale = predictor.scale().detach()

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,)."""
        model, size = self.model, self.predictor.image_size
        pictures = pictures.to(self.predictor.device)
        if pictures.shape[-2:] != (size, size):
            pictures = interpolate(pictures, (size, size), mode="bicubic", align_corners=False, antialias=True)
        with evaluating(model), torch.set_grad_enabled(pictures.requires_grad):
            features = model.encode_image((pictures - model.mean) / model.std)  # (B, 3, S, S) -> (B, D)
        features = features.to(self.wanted.dtype)
        score = features @ self.wanted  # (B, D) @ (D,) -> (B,)
        if self.others is None:
            return score
        nearest = (self.scale * (features @ self.others.T)).logsumexp(dim=1)  # (B, D) @ (D, N) -> (B,)
        return score - (nearest - math.log(len(self.others))) / self.scale
