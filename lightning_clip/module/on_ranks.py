"""What a module asks of the processes that run it, before a strategy brings them together."""

from __future__ import annotations

import lightning.pytorch as pl

from lightning_clip.checkpoints.writing import write_whole
from lightning_clip.module.settings import TrainingSettings
from lightning_clip.strategies import check_launch
from lightning_clip.training.lost_ranks import LostRanks

__all__ = ["OnRanks"]


class OnRanks(pl.LightningModule):
    """A LightningModule whose ranks say why another has ended, and wait for it only so long.

    Attributes:
        training_settings: whose `execution.rank_timeout` is that time.
    """

    training_settings: TrainingSettings

    def configure_callbacks(self) -> list[pl.Callback]:
        """Lightning asks for them before it makes the process group."""
        check_launch(self.trainer)
        lost = LostRanks(self.training_settings.execution.rank_timeout)
        lost.limit(self.trainer.strategy)
        write_whole(self.trainer.strategy)  # which reads checkpoints, too, with a line for those that it cannot read
        return [lost]
