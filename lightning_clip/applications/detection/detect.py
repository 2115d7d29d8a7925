"""`detect`: where in a picture the things are that have one of several names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.boxed_images import placed, whole_picture
from lightning_clip.encoders.detection_head import DetectionHead
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import ImageInput, one_picture
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.classifier import ClassNames, names_of_classes

__all__ = ["Detections", "Detector", "detect"]


@dataclass(frozen=True)
class Detections:
    """What was found in a picture, the surest first.

    Attributes:
        names: C that were asked for.
        boxes: float32 (N, 4), left, top, right and bottom in pixels of the picture.
        labels: int64 (N,), places in `names`.
        scores: float32 (N,), in [0, 1].
    """

    names: tuple[str, ...]
    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to_mappings(self) -> list[dict[str, Any]]:
        """Each as a plain mapping of name, score and box."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [
            {"name": self.names[label], "score": round(score, 4), "box": [round(edge, 2) for edge in box]}
            for label, score, box in rows
        ]


class Detector:
    """`detect` for many pictures: the names are encoded once.

    Args:
        predictor: of a model with a detection head: trained with the objective "detection", or OWL-ViT's or OWLv2's weights.
        names: at least one, each a name or a list of names.
        templates: prompts for the names, as for `Predictor.zero_shot_classifier`.
        threshold: places with a lower score are passed over, in [0, 1].
        overlap: of two boxes with one name that share a larger part (intersection over union) the surer one stays; 1 keeps all.
        limit: boxes of a picture at most, the surest.
        every_name: a place may have several names, as mean average precision counts it; else its best one.

    Raises:
        InputError: a model without a detection head, no names, a name twice, or a setting out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        names: ClassNames,
        *,
        templates: str | Sequence[str] = "simple",
        threshold: float = 0.2,
        overlap: float = 0.7,
        limit: int = 100,
        every_name: bool = False,
    ) -> None:
        self.names = tuple(own[0] for own in names_of_classes(names))
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise InputError(f"names has {twice!r} twice: give each thing once")
        in_range("threshold", threshold, 0, 1)
        in_range("overlap", overlap, 0, 1)
        in_range("limit", limit, 1, whole=True)
        self.head = head_of(predictor)
        self.predictor, self.threshold, self.overlap, self.limit = predictor, threshold, overlap, limit
        self.every_name = every_name
        self.transform = whole_picture(predictor.transform, predictor.image_size)
        self.texts = predictor.zero_shot_classifier(names, templates).T  # (D, C) -> (C, D)

    def __call__(self, image: Tensor) -> Detections:
        """One picture, uint8 (3, H, W) of any size."""
        boxes, logits = self.places(image)
        scores = logits.sigmoid()  # (Q, C)
        if self.every_name:
            place, label = torch.meshgrid(torch.arange(len(scores)), torch.arange(scores.shape[1]), indexing="ij")
            found, place, label = scores.flatten(), place.flatten(), label.flatten()  # (Q, C) -> (Q C,)
        else:
            found, label = scores.max(dim=1)
            place = torch.arange(len(scores))
        order = found.argsort(descending=True, stable=True)
        order = order[found[order] >= self.threshold][: 20 * self.limit]
        found, label, boxes = found[order], label[order], boxes[place[order]]
        if self.overlap < 1:
            kept = batched_nms(boxes, found, label, self.overlap)
            found, label, boxes = found[kept], label[kept], boxes[kept]
        return Detections(self.names, boxes[: self.limit], label[: self.limit], found[: self.limit])

    def places(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of each place of a picture its box in pixels, inside of it, and its logits: float32 (Q, 4) and (Q, C).

        Args:
            image: uint8 (3, H, W) of any size.
        """
        height, width = image.shape[-2:]
        pixels, placement = placed(self.transform, image)
        model = self.predictor.model
        with evaluating(model):
            tokens = model.encode_with_tokens("image", pixels[None].to(self.predictor.device))[1]  # (1, L, W)
            found = self.head(tokens)
            logits = found.logits(self.texts.to(tokens.device)).float()[0].cpu()  # (1, Q, C) -> (Q, C)
        corners = box_convert(found.boxes[0].float().cpu(), "cxcywh", "xyxy") * pixels.shape[-1]  # (Q, 4)
        corners = placement.inverse().corners(corners)
        return corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height])), logits


def detect(
    predictor: Predictor,
    image: ImageInput,
    names: ClassNames,
    *,
    templates: str | Sequence[str] = "simple",
    threshold: float = 0.2,
    overlap: float = 0.7,
    limit: int = 100,
) -> Detections:
    """Finds the things in a picture that have one of several names.

    Args:
        predictor: as for `Detector`.
        image: one picture of any size, as for `Predictor.encode_image`.
        names: as for `Detector`, and so the others.
        templates: prompts.
        threshold: the lowest score.
        overlap: of boxes with one name.
        limit: boxes at most.

    Raises:
        InputError: as `Detector`, or not exactly one picture.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ...     objective="detection",
        ... )
        >>> picture = torch.zeros(3, 40, 60, dtype=torch.uint8)
        >>> detect(module.predictor, picture, ["a cat"], threshold=0, overlap=1).boxes.shape
        torch.Size([16, 4])
    """
    options: dict[str, Any] = {"threshold": threshold, "overlap": overlap, "limit": limit}
    detector = Detector(predictor, names, templates=templates, **options)
    return detector(predictor.read(one_picture(image, "detect", ", or make a Detector")))


def head_of(predictor: Predictor) -> DetectionHead:
    """The detection head of a model.

    Raises:
        InputError: it has none.
    """
    head = predictor.model.parts().get("detector")
    if not isinstance(head, DetectionHead):
        raise InputError(
            "the model has no detection head: train it with objective: detection on pictures with boxes, or use weights that "
            "have one, such as hf:google/owlvit-base-patch32"
        )
    return head
