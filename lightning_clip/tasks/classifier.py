"""A classifier head that begins as the zero-shot classifier, trained with the image tower or alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.model.space import SharedSpace
from lightning_clip.strategies.sharding import fill
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["ClassifierModule"]


class ClassifierModule(SupervisedModule):
    r"""Image tower and a linear head, whose weights begin as the classes' text features.

    Logits are :math:`s f W` with the inverse temperature s, unit features f (B, D) and W (D, C): before the first step exactly
    those of the zero-shot classifier (Wortsman et al. 2022, arXiv 2109.01903, section 2). Text tower and temperature rest.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        head_only: the image tower rests too.
        **arguments: of `SupervisedModule` and `ClipModule`.

    Examples:
        >>> module = ClassifierModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ...     class_names=["cat", "dog"],
        ... )
        >>> module.score_classes(torch.zeros(3, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([3, 2])
    """

    reads_texts = False

    def __init__(self, *towers: Any, head_only: bool = False, **arguments: Any) -> None:
        super().__init__(*towers, **arguments)
        self.head_only = head_only

    def build_classes(self, num_classes: int) -> nn.Module:
        return Head(self.embed_dim, num_classes)

    def start_classes(self) -> None:
        fill(head(self.model), self.zero_shot_classifier(self._names(), self.templates).T)

    def class_logits(self, image_features: Tensor) -> Tensor:
        logits: Tensor = self.model.classes(image_features, self.model.scale())  # type: ignore[operator]
        return logits

    def rest(self) -> None:
        if self.head_only:
            return super().rest()
        for name, parameter in self.model.named_parameters():
            if not name.startswith(("image_encoder.", "image_projection.")):
                parameter.requires_grad_(False)

    def to_mapping(self) -> dict[str, Any]:
        return {**super().to_mapping(), "head_only": self.head_only}


class Head(nn.Module):
    """One row for each class, laid out as zero-shot classifiers are, so that products round alike.

    Args:
        embed_dim: D.
        num_classes: C.
    """

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, embed_dim))

    def forward(self, image_features: Tensor, scale: Tensor) -> Tensor:
        """Unit features (B, D) and the inverse temperature (1,) -> logits (B, C)."""
        return scale * image_features @ self.weight.T


def head(model: SharedSpace) -> Tensor:
    """The rows (C, D) of a model with a `Head`."""
    found: Any = model.classes
    weight: Tensor = found.weight
    return weight
