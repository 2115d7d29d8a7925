"""CLIP-Adapter: a small network behind the image features, mixed with them; labelled images arrive, it leaves trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["ClipAdapterModule"]


class ClipAdapterModule(SupervisedModule):
    r"""CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544, equations 5 to 7) on the image side; both towers rest.

    Features become :math:`\alpha \, \mathrm{ReLU}(\mathrm{ReLU}(f W_1) W_2) + (1 - \alpha) f`, made unit again, and are
    compared with the zero-shot classifier. As in the authors' code there are no biases.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        ratio: alpha in [0, 1]; 0 is zero-shot.
        reduction: how many times narrower than the features the middle is.
        **arguments: of `SupervisedModule` and `ClipModule`.

    Raises:
        InputError: a setting out of its range.
    """

    reads_texts = False

    def __init__(self, *towers: Any, ratio: float = 0.2, reduction: int = 4, **arguments: Any) -> None:
        super().__init__(*towers, **arguments)
        if not 0 <= ratio <= 1:
            raise InputError(f"ratio {ratio} must be in [0, 1]: the features as they were get the rest")
        if not 1 <= reduction <= self.embed_dim:
            raise InputError(f"reduction {reduction} must be from 1 to embed_dim {self.embed_dim}")
        self.ratio, self.reduction = ratio, reduction

    def build_classes(self, num_classes: int) -> nn.Module:
        return _Adapter(self.embed_dim, self.embed_dim // self.reduction, num_classes)

    def start_classes(self) -> None:
        adapter: Any = self.model.classes
        adapter.words.copy_(self.zero_shot_classifier(self._names(), self.templates).T)

    def adapted(self, image_features: Tensor) -> Tensor:
        """Unit features (B, D) behind the adapter."""
        adapter: Any = self.model.classes
        mixed = self.ratio * adapter(image_features) + (1 - self.ratio) * image_features
        return normalize(mixed, dim=-1) if self.ratio else mixed  # unit already

    def class_logits(self, image_features: Tensor) -> Tensor:
        adapter: Any = self.model.classes
        logits: Tensor = self.model.scale() * self.adapted(image_features) @ adapter.words.T
        return logits

    def to_mapping(self) -> dict[str, Any]:
        return {**super().to_mapping(), "ratio": self.ratio, "reduction": self.reduction}


class _Adapter(nn.Module):
    """Two layers, and the zero-shot classifier (C, D), which rests."""

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
