"""Features of a set, extracted once and read by every protocol; on disk as safetensors, mapped into memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError

__all__ = ["Features", "load_features", "save_features"]

_FORMAT = "lightning_clip features 1"


@dataclass(frozen=True)
class Features:
    """Features of N images and M captions, in the order of the source.

    Attributes:
        image_features: float32 (N, D), unit length, in the shared space.
        backbone: float32 (N, W), before the projection: what linear probes see.
        label: int64 (N,), -1 where there is none; or int64 (N, C) where an image has several classes: 1, 0, or -1 where it does
            not count for a class.
        index: int64 (N,), place in the source, rising.
        keys: names of the images.
        text_features: float32 (M, D), unit length; (0, D) where there are no captions.
        text_index: int64 (M,), place in the source of the image of each caption.
        skipped: images that could not be read: key -> reason.
    """

    image_features: Tensor
    backbone: Tensor
    label: Tensor
    index: Tensor
    keys: list[str] = field(default_factory=list)
    text_features: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    text_index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_features)

    def subset(self, rows: Tensor) -> Features:
        """Images by row, without captions.

        Args:
            rows: int64 (K,), or bool (N,).
        """
        keys = [self.keys[row] for row in rows.tolist()] if self.keys else []
        return Features(self.image_features[rows], self.backbone[rows], self.label[rows], self.index[rows], keys)

    def checked(self, name: str, num_classes: int | None = None, *, scores: bool = False) -> Features:
        """These features, if they can be evaluated.

        Args:
            name: of the set, for the error.
            num_classes: labels must count below it.
            scores: `image_features` are scores, of which some may be infinite.

        Raises:
            InputError: no image, values that are not finite, or a label outside the classes.
        """
        if not len(self):
            raise InputError(f"{name} has no image that could be read: {self.skipped or 'it is empty'}")
        for part in (self.image_features, self.backbone, self.text_features):
            wrong = torch.isnan(part) if scores else ~torch.isfinite(part)  # (N, D)
            if wrong.any():
                row = int(wrong.any(dim=1).nonzero()[0])
                raise InputError(f"features of {name} hold NaN or infinite values (row {row}): the model has diverged")
        if num_classes is not None and self.label.ndim == 1:
            wrong = (self.label < 0) | (self.label >= num_classes)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                key = self.keys[row] if self.keys else str(int(self.index[row]))
                raise InputError(
                    f"image {key!r} of {name} has label {int(self.label[row])}, outside the {num_classes} class names: labels "
                    "count the class names from 0; omit images that have none"
                )
        return self


def save_features(features: Features, path: Path) -> None:
    """Writes what `load_features` reads.

    Args:
        features: of one split.
        path: the .safetensors file.
    """
    from safetensors.torch import save_file

    names = ("image_features", "backbone", "label", "index", "text_features", "text_index")
    tensors = {name: getattr(features, name).contiguous() for name in names}
    metadata = {"format": _FORMAT, "keys": json.dumps(features.keys), "skipped": json.dumps(features.skipped)}
    with beside(path) as place:
        save_file(tensors, place, metadata)


def load_features(path: Path) -> Features:
    """Reads what `save_features` wrote.

    Args:
        path: the .safetensors file.

    Raises:
        InputError: not such a file, or half of one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            metadata: dict[str, Any] = stored.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"cached features {str(path)!r} are of another version: delete the file")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cached features {str(path)!r} are broken ({error}): delete the file") from error
    return Features(**tensors, keys=json.loads(metadata["keys"]), skipped=json.loads(metadata["skipped"]))
