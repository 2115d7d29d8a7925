"""CLIP-Adapter: a small network behind the image features, mixed with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import objectives
from lightning_clip.tasks.class_objective import ClassObjective
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["ClipAdapter", "ClipAdapterModule"]


@objectives.register("clip_adapter")
class ClipAdapter(ClassObjective):
    r"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544, equations 5 to 7) on the image side; both towers are frozen.

    Features become :math:`\alpha \, \mathrm{ReLU}(\mathrm{ReLU}(f W_1) W_2) + (1 - \alpha) f`, made unit again, and are
    compared with the zero-shot classifier. As in the authors' code there are no biases.

    Args:
        class_names: see `ClassObjective`.
        templates: see `ClassObjective`.
        label_smoothing: see `ClassObjective`.
        ratio: alpha in [0, 1]; 0 is zero-shot.
        reduction: how many times narrower than the features the middle is.

    Raises:
        InputError: a setting out of its range.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        label_smoothing: float = 0.0,
        ratio: float = 0.2,
        reduction: int = 4,
    ) -> None:
        super().__init__(class_names, templates, label_smoothing)
        if not 0 <= ratio <= 1:
            raise InputError(f"ratio {ratio} must be in [0, 1]: the features as they were get the rest")
        in_range("reduction", reduction, 1, whole=True)
        self.ratio, self.reduction = ratio, reduction

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        if self.reduction > space.embed_dim:
            raise InputError(f"reduction {self.reduction} must be from 1 to embed_dim {space.embed_dim}")
        return _Adapter(space.embed_dim, space.embed_dim // self.reduction, num_classes)

    def start_classes(self, predictor: Predictor, data: Any | None) -> None:
        adapter: Any = predictor.model.classes
        adapter.words.copy_(predictor.zero_shot_classifier(self.names, self.templates).T)  # (D, C) -> (C, D)

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        adapter: Any = space.classes
        mixed = self.ratio * adapter(image_features) + (1 - self.ratio) * image_features
        adapted = normalize(mixed, dim=-1) if self.ratio else mixed  # unit already
        logits: Tensor = space.scale() * adapted @ adapter.words.T  # (B, D) -> (B, C)
        return logits


class _Adapter(nn.Module):
    """Two layers, and the zero-shot classifier (C, D), which is frozen."""

    words: Tensor

    def __init__(self, embed_dim: int, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim, bias=False), nn.ReLU(), nn.Linear(hidden_dim, embed_dim, bias=False), nn.ReLU()
        )
        self.register_buffer("words", torch.zeros(num_classes, embed_dim))

    def forward(self, image_features: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        learned: Tensor = self.layers(image_features)
        return learned


class ClipAdapterModule(SupervisedModule):
    """A `ClipModule` with the objective "clip_adapter": a small network behind the image features.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        class_names: see `ClipAdapter`.
        templates: see `ClipAdapter`.
        label_smoothing: see `ClipAdapter`.
        ratio: see `ClipAdapter`.
        reduction: see `ClipAdapter`.
        **arguments: of `ClipModule`.
    """

    def __init__(
        self,
        *towers: Any,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        label_smoothing: float | None = None,
        ratio: float | None = None,
        reduction: int | None = None,
        **arguments: Any,
    ) -> None:
        settings = {"class_names": class_names, "templates": templates, "label_smoothing": label_smoothing}
        settings |= {"ratio": ratio, "reduction": reduction}
        arguments["objective"] = self.objective_of("clip_adapter", arguments.get("objective"), settings)
        super().__init__(*towers, **arguments)
