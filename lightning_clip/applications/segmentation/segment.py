"""`segment`: which of several names each pixel of a picture is most like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.applications.segmentation.refining import refined
from lightning_clip.applications.segmentation.windows import fitted, windows
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.dense_methods import DenseMethod
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import ImageInput, one_picture
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.classifier import ClassNames

__all__ = ["NOTHING", "Segmentation", "Segmenter", "contrasted", "segment"]

# The label of pixels that are like none of the names.
NOTHING = 255


@dataclass(frozen=True)
class Segmentation:
    """A picture, segmented.

    Attributes:
        names: C of them.
        scores: float32 (C, H', W') at the size that the model saw: cosine similarity minus the mean over the other names.
        labels: int64 (H, W) at the picture's own size: indices of `names`, or `NOTHING`.
    """

    names: tuple[str, ...]
    scores: Tensor
    labels: Tensor

    def share(self, index: int) -> float:
        """The part of all pixels in [0, 1] that have a label."""
        return float((self.labels == index).double().mean())


class Segmenter:
    """`segment` for many pictures: the names are encoded once.

    Args:
        predictor: as for `dense_features`.
        names: at least two things to tell apart, each a name or a list of names.
        method: as for `dense_features`.
        templates: prompts for the names, as for `Predictor.zero_shot_classifier`.
        resolution: the shorter side in pixels to which pictures are brought; None takes the model's own size. Smaller things
            are found at a higher one, in more windows.
        overlap: part of a window, in [0, 1), that the next one sees again.
        threshold: a pixel whose best name has a probability below it is `NOTHING`; in [0, 1].
        contrast: take off the mean over the other names; without it `scores` are similarities as they are.
        refine: steps in which scores are made to follow the picture's edges, at least 0; see `refined`.

    Raises:
        InputError: fewer than two names or more than 255, a name twice, a setting out of range, an unknown method, or a tower
            without features of places.
    """

    def __init__(
        self,
        predictor: Predictor,
        names: ClassNames,
        method: str | DenseMethod | None = None,
        *,
        templates: str | Sequence[str] = "simple",
        resolution: int | None = None,
        overlap: float = 0.5,
        threshold: float = 0.0,
        contrast: bool = True,
        refine: int = 0,
    ) -> None:
        self.names = _checked(names)
        self.size = predictor.image_size
        self.resolution = self.size if resolution is None else resolution
        in_range("resolution", self.resolution, self.size, whole=True)
        in_range("overlap", overlap, 0, 1, open_high=True)
        in_range("threshold", threshold, 0, 1)
        in_range("refine", refine, 0, 1000, whole=True)
        self.refine = refine
        self.stride = max(1, round(self.size * (1 - overlap)))
        self.predictor, self.method, self.threshold, self.contrast = predictor, method, threshold, contrast
        predictor.model.tower("image").dense_view()  # or the error of a tower that has none, before texts are encoded
        self.classifier = predictor.zero_shot_classifier(names, templates).float()  # (D, C)

    def __call__(self, image: Tensor) -> Segmentation:
        """One picture, uint8 (3, H, W) of any size."""
        scores = self.scores(image)
        return Segmentation(self.names, scores, self._labels(scores, image.shape[-2], image.shape[-1]))

    def scores(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> contrasted similarities float32 (C, H', W'), the shorter side at `resolution`."""
        sized = fitted(image, self.resolution).to(self.predictor.device)
        height, width = sized.shape[-2:]
        total = torch.zeros(self.classifier.shape[1], height, width, device=sized.device)
        seen = torch.zeros(height, width, device=sized.device)
        size = self.size
        with evaluating(self.predictor.model):
            for top, left in windows(height, width, size, self.stride):
                place = (..., slice(top, top + size), slice(left, left + size))
                grid = self.predictor.model.encode_dense(sized[place].unsqueeze(0), self.method).grid
                similar = (grid.float() @ self.classifier).permute(0, 3, 1, 2)  # (1, r, c, D) @ (D, C) -> (1, C, r, c)
                total[place] += interpolate(similar, (size, size), mode="bilinear", align_corners=False)[0]
                seen[place] += 1
        mean = refined(total / seen, sized, self.refine)
        return (contrasted(mean) if self.contrast else mean).cpu()

    def _labels(self, scores: Tensor, height: int, width: int) -> Tensor:
        """(C, H', W') -> (H, W), a name at a time: large pictures with many names would not fit in memory."""
        scale = float(self.predictor.scale())
        best = torch.full((height, width), -torch.inf)
        everything, labels = best.clone(), torch.zeros(height, width, dtype=torch.long)
        for index, own in enumerate(scores):
            large = interpolate(own[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]  # -> (H, W)
            labels[large > best] = index
            best = torch.maximum(best, large)
            everything = torch.logaddexp(everything, scale * large)
        if self.threshold:
            labels[scale * best - everything < torch.tensor(self.threshold).log()] = NOTHING
        return labels


def segment(
    predictor: Predictor,
    image: ImageInput,
    names: ClassNames,
    method: str | DenseMethod | None = None,
    *,
    templates: str | Sequence[str] = "simple",
    resolution: int | None = None,
    overlap: float = 0.5,
    threshold: float = 0.0,
    refine: int = 0,
) -> Segmentation:
    """Names each pixel of a picture by words, without training for it.

    Args:
        predictor: as for `dense_features`.
        image: one picture of any size, as for `Predictor.encode_image`; windows of the model's size go over it.
        names: as for `Segmenter`.
        method: as for `dense_features`.
        templates: as for `Segmenter`.
        resolution: as for `Segmenter`.
        overlap: as for `Segmenter`.
        threshold: as for `Segmenter`.
        refine: as for `Segmenter`.

    Raises:
        InputError: as `Segmenter`, or not exactly one picture.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> segment(module.predictor, torch.zeros(3, 40, 60, dtype=torch.uint8), ["a cat", "grass"]).labels.shape
        torch.Size([40, 60])
    """
    options = {"resolution": resolution, "overlap": overlap, "threshold": threshold, "refine": refine}
    segmenter = Segmenter(predictor, names, method, templates=templates, **options)  # type: ignore[arg-type]
    return segmenter(predictor.read(one_picture(image, "segment", ", or make a Segmenter")))


def contrasted(scores: Tensor) -> Tensor:
    """Each name's scores minus the mean over the others: (C, ...) -> (C, ...), with C >= 2.

    What all prompts have in common, such as what "a photo" looks like, says nothing about a place and falls out.
    """
    others = (scores.sum(dim=0, keepdim=True) - scores) / (len(scores) - 1)
    return scores - others


def _checked(names: ClassNames) -> tuple[str, ...]:
    """The first name of each class."""
    if isinstance(names, str):
        raise InputError(f"names {names!r} is one text: give a list of at least two names")
    first = tuple(name if isinstance(name, str) else name[0] for name in names)
    if len(first) < 2:
        raise InputError(
            f"names {list(first)} has {len(first)} name: give at least two, since a place is named by which of them it is more "
            'like; add what surrounds it, such as "grass" or "wall"'
        )
    if len(first) > NOTHING:
        raise InputError(f"names has {len(first)} entries: at most {NOTHING} are supported, which is what a mask can hold")
    if twice := next((name for name in first if first.count(name) > 1), None):
        raise InputError(f"names has {twice!r} twice: give each name once")
    return first
