"""Features of a locked image tower, kept from epoch to epoch and run to run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from lightning_clip.checkpoints.trained_only import fingerprint
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import KeptFeatures, PairBatch
from lightning_clip.data.feature_store import FeatureStore

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from lightning_clip.data.transforms import ImageTransformSettings
    from lightning_clip.model.space import SharedSpace

__all__ = ["Cached", "FeatureCache"]


class Cached(Protocol):
    """What the cache asks of a `ClipModule`."""

    @property
    def model(self) -> SharedSpace:
        """Built, with its weights."""

    @property
    def transform_settings(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""

    @property
    def adaptation(self) -> Any:
        """Whose settings name the folder."""

    @property
    def trainer(self) -> pl.Trainer:
        """The one that fits it."""

    @property
    def image_size(self) -> int:
        """Side in pixels."""

    def image_transform(self, train: bool) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S)."""


class FeatureCache:
    """The image tower's features by picture, in a folder of their own for these weights, transform and precision.

    Pictures are known by their content: other data that holds some of the same pictures, another order or another number of
    ranks find them. Ranks and runs may share a folder.

    Args:
        module: with a locked image tower whose weights are final.
        folder: of all caches.

    Raises:
        InputError: training would see other pixels each time, or a strategy under which every pass is a collective.
    """

    def __init__(self, module: Cached, folder: str) -> None:
        strategy = module.trainer.strategy
        if getattr(strategy, "passes_are_collective", False):
            raise InputError(
                f"adapt.image.cache does not work under {type(strategy).__name__}, whose ranks go through the towers together: "
                "use strategy 'ddp'; a locked tower has neither gradients nor optimizer state to be spread"
            )
        check_augmentation(module)
        about = _about(module)
        key = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.store = FeatureStore(Path(folder).expanduser() / key)
        if module.trainer.local_rank == 0:  # the other ranks of the machine begin when damaged parts are gone
            _describe(self.store.folder, about)
            self.store.refresh(verify=True)
        strategy.barrier()
        self.store.refresh()

    def fill(self, batch: PairBatch, model: SharedSpace, slice_size: int | None) -> PairBatch:
        """The batch with features in the place of pixels; new ones are kept."""
        if isinstance(batch.image, KeptFeatures) or batch.image is None or batch.digests is None:
            return batch
        with torch.no_grad():
            parts = [model.image_backbone(part) for part in torch.split(batch.image, slice_size or len(batch.image))]
        features = torch.cat(parts).float()
        self.store.add(batch.digests, features)
        return batch._replace(image=KeptFeatures(features))


def check_augmentation(module: Cached) -> None:
    """Raises an InputError if training pictures are not those of evaluation, which are the same each time."""
    if repr(module.image_transform(train=True)) != repr(module.image_transform(train=False)):
        raise InputError(
            f"adapt.image.cache {module.adaptation.settings.image.cache!r} needs the same pixels in every epoch, but training "
            "augments them: set towers: {image: {transform: {augment: false}}}, or omit the cache"
        )


def _about(module: Cached) -> dict[str, Any]:
    """All that the features depend on beside the picture."""
    model = module.model
    tower = model.tower("image")
    settings = module.transform_settings
    return {
        "format": 1,
        "tower": type(tower).__name__,
        "settings": tower.to_mapping(),
        "weights": fingerprint({**tower.state_dict(), "mean": model.mean, "std": model.std}),
        "transform": repr(module.image_transform(train=False)),
        "pixels": [module.image_size, settings.resize, settings.interpolation, *filter(None, [settings.resize_to])],
        "precision": str(module.trainer.precision),
    }


def _describe(folder: Path, about: dict[str, Any]) -> None:
    """Says beside the features what they are of, for people."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "about.json").write_text(json.dumps(about, indent=1, default=str))
    except OSError as error:
        raise InputError(f"adapt.image.cache: {str(folder)!r} cannot be written to ({error}): give another folder") from error
