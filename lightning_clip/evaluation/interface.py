"""What evaluation sees of a model: pictures and strings in, features out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform

__all__ = ["EvaluatedModel"]


class EvaluatedModel(nn.Module, ABC):
    """A model with its preprocessing, in evaluation mode, as protocols need it.

    Args:
        name: in tables.
        image_size: side of the pictures in pixels.
        transform: how they get there.
    """

    def __init__(self, name: str, image_size: int, transform: ImageTransformSettings) -> None:
        super().__init__()
        self.name, self.image_size, self.transform_settings = name, image_size, transform
        self._identity = ""

    @property
    @abstractmethod
    def scale(self) -> float:
        """The inverse temperature."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 3, S, S) -> unit features (B, D) and those before the projection (B, W), in float32."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Strings -> unit features (B, D) in float32 on the CPU."""

    def transform(self) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S)."""
        return evaluation_transform(self.image_size, self.transform_settings)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """A short name for these very weights and this preprocessing; features are kept under it."""
        if not self._identity:
            digest = hashlib.blake2b(repr((type(self).__name__, self.image_size, self.transform_settings)).encode())
            for key, value in sorted(self.state_dict().items()):
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            digest.update(repr(self.text_settings()).encode())
            self._identity = digest.hexdigest()[:16]
        return self._identity

    def text_settings(self) -> Any:
        """What else than weights decides about text features, such as the vocabulary."""
        return None
