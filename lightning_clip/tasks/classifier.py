"""A classifier head that begins as the zero-shot classifier, trained with the image tower or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import objectives
from lightning_clip.strategies.sharding import fill
from lightning_clip.tasks.class_objective import ClassObjective
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["ClassifierHead", "ClassifierModule", "Head"]


@objectives.register("classes")
class ClassifierHead(ClassObjective):
    r"""Image tower and a linear head, whose weights begin as the classes' text features.

    Logits are :math:`s f W` with the inverse temperature s, unit features f (B, D) and W (D, C): before the first step exactly
    those of the zero-shot classifier (Wortsman et al. 2022, arXiv 2109.01903, section 2). Text tower and temperature are
    frozen.

    Args:
        class_names: see `ClassObjective`.
        templates: see `ClassObjective`.
        label_smoothing: see `ClassObjective`.
        head_only: the image tower is frozen, too.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        label_smoothing: float = 0.0,
        head_only: bool = False,
    ) -> None:
        super().__init__(class_names, templates, label_smoothing)
        self.head_only = head_only

    def learns(self) -> tuple[str, ...]:
        return ("classes.",) if self.head_only else ("image_encoder.", "image_projection.", "classes.")

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        return Head(space.embed_dim, num_classes)

    def start_classes(self, predictor: Predictor, data: Any | None) -> None:
        head: Any = predictor.model.classes
        fill(head.weight, predictor.zero_shot_classifier(self.names, self.templates).T)  # (D, C) -> (C, D)

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        logits: Tensor = space.classes(image_features, space.scale())  # type: ignore[operator]
        return logits


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
        scaled = scale * image_features  # (B, D); float32 from a model in half precision
        return scaled @ self.weight.T.to(scaled.dtype)  # -> (B, C)


class ClassifierModule(SupervisedModule):
    """A `ClipModule` with the objective "classes": image tower and a head that begins as the zero-shot classifier.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        class_names: see `ClassifierHead`.
        templates: see `ClassifierHead`.
        label_smoothing: see `ClassifierHead`.
        head_only: see `ClassifierHead`.
        **arguments: of `ClipModule`.

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

    def __init__(
        self,
        *towers: Any,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        label_smoothing: float | None = None,
        head_only: bool | None = None,
        **arguments: Any,
    ) -> None:
        settings = {"class_names": class_names, "templates": templates, "label_smoothing": label_smoothing}
        arguments["objective"] = self.objective_of("classes", arguments.get("objective"), {**settings, "head_only": head_only})
        super().__init__(*towers, **arguments)
