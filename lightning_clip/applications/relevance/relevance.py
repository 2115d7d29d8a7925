"""`relevance`: where in a picture a text, or each word of a caption, is seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from lightning_clip.applications.relevance.rollout import gradcam, rollout
from lightning_clip.applications.segmentation.refining import refined
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import ImageInput, one_picture
from lightning_clip.model.predictor import Predictor

__all__ = ["METHODS", "Relevance", "relevance", "word_relevance"]

METHODS = ("attention", "gradcam")
# Words that stand for nothing which could be seen.
_FUNCTION_WORDS = (
    "a an and are as at be by for from has have in into is it its of on or that the there this to was with "
    "image picture photo photograph drawing shows"
)
_UNSEEN = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Relevance:
    """Where texts are seen in a picture.

    Attributes:
        picture: uint8 (3, S, S), what the model saw: resized and cropped as its transform does.
        texts: T of them.
        grids: float32 (T, rows, columns), at least 0, as the tower has its places; (T, S, S) of several views, or refined.
        similarities: float32 (T,), cosine of the picture with each text.
    """

    picture: Tensor
    texts: tuple[str, ...]
    grids: Tensor
    similarities: Tensor

    def maps(self) -> Tensor:
        """float32 (T, S, S): the grids brought to the pixels of `picture`."""
        size = (self.picture.shape[-2], self.picture.shape[-1])
        return interpolate(self.grids[None], size, mode="bilinear", align_corners=False)[0]  # (T, r, c) -> (T, S, S)


def relevance(
    predictor: Predictor,
    image: ImageInput,
    texts: str | Sequence[str],
    method: str | None = None,
    *,
    against: Sequence[str] = (),
    views: int = 1,
    refine: int = 0,
) -> Relevance:
    """Where in a picture each text is seen: which places make the two similar.

    Args:
        predictor: of a model whose image tower is a ViT or a convolutional network.
        image: one picture, as for `Predictor.encode_image`.
        texts: one text or several; each is explained by itself.
        method: "attention" (gradient-weighted attention through all blocks, Chefer et al. 2021) or "gradcam"; None takes
            attention for a ViT, else Grad-CAM.
        against: texts whose mean similarity is taken off, so that what they share with a text is not shown: for "a red circle"
            other things that may be there.
        views: 1, or a square number of views, moved by parts of a patch each way, whose maps are averaged: finer than places.
        refine: steps in which the maps are made to follow the picture's edges, from 0 to 1,000; see `segmentation.refined`.

    Raises:
        InputError: a tower without features of places, a method that it does not have, an empty text, not one picture, or a
            number of views that is no square.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> found = relevance(module.predictor, torch.zeros(3, 40, 60, dtype=torch.uint8), "a cat")
        >>> found.grids.shape, found.maps().shape
        (torch.Size([1, 4, 4]), torch.Size([1, 32, 32]))
    """
    given = _checked(texts)
    targets = predictor.encode_text(given)  # (T, D)
    others = predictor.encode_text(_checked(against)).mean(dim=0) if against else torch.zeros_like(targets[0])
    if views < 1 or math.isqrt(views) ** 2 != views:
        raise InputError(f"views {views!r} must be a square number, such as 1, 4, 9 or 16")
    in_range("refine", refine, 0, 1000, whole=True)
    found = _explained(predictor, image, tuple(given), targets, targets - others, method, math.isqrt(views))
    return replace(found, grids=refined(found.maps(), found.picture, refine)) if refine else found


def word_relevance(predictor: Predictor, image: ImageInput, caption: str, method: str | None = None) -> Relevance:
    """Where in a picture each word of a caption is seen: which places make the two more similar than without the word.

    Args:
        predictor: as for `relevance`.
        image: as for `relevance`.
        caption: words that stand for nothing to be seen, such as "the", are passed over.
        method: as for `relevance`.

    Returns:
        The whole caption first, then each of its words; `similarities` of words are what the picture loses without them.

    Raises:
        InputError: as `relevance`.
    """
    _checked(caption)
    words = caption.split()
    seen = [number for number, word in enumerate(words) if word.strip(".,;:!?\"'()").lower() not in _UNSEEN]
    without = [" ".join(words[:number] + words[number + 1 :]) for number in seen]
    seen = [number for number, left in zip(seen, without, strict=True) if left]  # a caption of one word is that word
    features = predictor.encode_text([caption, *filter(None, without)])  # (1 + N, D)
    targets = torch.cat([features[:1], features[:1] - features[1:]])
    texts = (caption, *(words[number] for number in seen))
    return _explained(predictor, image, texts, targets, targets, method)


def _explained(
    predictor: Predictor,
    image: ImageInput,
    texts: tuple[str, ...],
    targets: Tensor,
    explained: Tensor,
    method: str | None,
    side: int = 1,
) -> Relevance:
    model = predictor.model
    pixels = next(predictor.pixels(predictor.read(one_picture(image, "relevance", "")).unsqueeze(0)))  # (1, 3, S, S)
    view = model.tower("image").dense_view()
    way = _way(method, bool(view.blocks))
    grids, similarities = [], []
    with evaluating(model), torch.enable_grad():
        (inputs,) = model.inputs("image", pixels)
        for target, wanted in zip(targets, explained, strict=True):
            features: list[Tensor] = []

            def score(tokens: Tensor, wanted: Tensor = wanted, features: list[Tensor] = features) -> Tensor:
                features.append(normalize(model.head("image")(view.pool(tokens)), dim=-1))  # (B, L, W) -> (B, D)
                return features[-1] @ wanted

            grid = way(view, inputs, score)  # (1, r, c)
            similarities.append((features[0].detach() @ target)[0].float().cpu())
            if side > 1:
                patch = inputs.shape[-1] // grid.shape[-1]
                grid = _averaged(partial(way, view, score=score), inputs, _offsets(side, patch))  # -> (1, S, S)
            grids.append(grid[0].float().cpu())
    return Relevance(pixels[0].cpu(), texts, torch.stack(grids), torch.stack(similarities))


def _offsets(side: int, patch: int) -> list[tuple[int, int]]:
    """Moves down and across, `side` each way, evenly over a patch: from minus half of it to less than half of it."""
    steps = [round(patch * (step + 0.5) / side - patch / 2) for step in range(side)]
    return [(down, across) for down in steps for across in steps]


def _averaged(explain: Callable[[Tensor], Tensor], inputs: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """The mean of maps of moved pictures, moved back: (1, 3, S, S) -> (1, S, S)."""
    height, width = inputs.shape[-2:]
    margin = max(max(abs(down), abs(across)) for down, across in offsets)
    wide = pad(inputs, (margin,) * 4, mode="replicate")  # (1, 3, S + 2 m, S + 2 m)
    total = torch.zeros_like(inputs[:, 0])
    for down, across in offsets:
        top, left = margin + down, margin + across
        grid = explain(wide[:, :, top : top + height, left : left + width])  # (1, r, c)
        large = interpolate(grid[:, None], (height, width), mode="bilinear", align_corners=False)  # -> (1, 1, S, S)
        back = pad(large, (margin,) * 4, mode="replicate")[:, 0]
        total += back[:, margin - down : margin - down + height, margin - across : margin - across + width]
    return total / len(offsets)


def _way(method: str | None, has_blocks: bool) -> Callable[..., Tensor]:
    chosen = method or ("attention" if has_blocks else "gradcam")
    if chosen not in METHODS:
        raise InputError(f"unknown relevance method {method!r}: {nearest(chosen, METHODS)}")
    if chosen == "attention" and not has_blocks:
        raise InputError("method 'attention' needs a ViT, whose attention is known: use method 'gradcam'")
    return rollout if chosen == "attention" else gradcam


def _checked(texts: str | Sequence[str]) -> list[str]:
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise InputError(f"texts {given!r} must be words: give at least one text, and none that is empty")
    return given
