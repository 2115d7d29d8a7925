"""What stands for `val_dataloader` where there is no validation data."""

from __future__ import annotations

import functools
from typing import Any

import lightning.pytorch as pl

__all__ = ["no_validation"]


@functools.wraps(pl.LightningDataModule.val_dataloader)
def no_validation() -> list[Any]:
    """No loader; wrapped, Lightning does not take it for one and runs without validation; its Tuner calls it all the same."""
    return []
