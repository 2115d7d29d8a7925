"""A module that is adapted: what of it rests in training, and where features of a tower that rests are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import lightning.pytorch as pl
from typing_extensions import Self

from lightning_clip.adapt import Adaptation, AdaptSettings, FeatureCache
from lightning_clip.data.feature_store import FeatureStore
from lightning_clip.model.clip import ClipModel
from lightning_clip.training.optim import undecayed_names

if TYPE_CHECKING:
    from lightning_clip.module.clip_module import ClipModule

__all__ = ["Adapted"]


class Adapted(pl.LightningModule):
    """The part of `ClipModule` that answers for `adapt`."""

    model: ClipModel
    adapt_settings: AdaptSettings
    _adaptation: Adaptation
    _cache: FeatureCache | None
    _undecayed: set[str]

    @property
    def adaptation(self) -> Adaptation:
        """What of the model is trained, and when."""
        self._built()
        return self._adaptation

    def forget_adaptation(self) -> None:
        """From now on everything is trained alike and checkpoints are whole; the weights stay as they are."""
        self.adapt_settings = AdaptSettings()
        self._adaptation = self._adaptation.forget(self.model)
        self._undecayed = undecayed_names(self.model)

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but what is locked stays in evaluation mode."""
        super().train(mode)
        if mode and hasattr(self, "_adaptation"):
            self._adaptation.locks.still(self.model)
        return self

    def feature_store(self) -> FeatureStore | None:
        """Where training keeps features of a locked image tower, asked by the data once the weights are final."""
        if (folder := self.adapt_settings.image.cache) is None:
            return None
        if self._cache is not None:
            self._cache.store.flush()
        self._cache = FeatureCache(cast("ClipModule", self), folder)
        return self._cache.store

    def on_fit_start(self) -> None:
        """Trains what was loaded, too: that is in evaluation mode, in which dropout, batch statistics and teachers rest."""
        if not self.training:
            self.train()

    def on_train_epoch_end(self) -> None:
        """Before loaders of any rank begin the next epoch, they can find the features of this one."""
        if self._cache is not None:
            self._cache.store.flush()
            self.trainer.strategy.barrier()

    def _built(self) -> ClipModel:
        raise NotImplementedError
