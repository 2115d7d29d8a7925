"""Hints of Lightning that do not help on the command line, hidden without importing it."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet"]

_NO_NEWS = (
    "Tip:",
    "Loading `train_dataloader` to estimate",
    "GPU available: False",
    "TPU available: False",
    "configured with model summary callbacks",
    "Restoring states from the checkpoint path",  # what was loaded is said when it is
)


def quiet() -> None:
    """Hides hints that do not help here: about loader workers (recipes choose them), log intervals and seeds."""
    for name in ("lightning.fabric.utilities.seed", "lightning.pytorch.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)
    for message in (
        "does not have many workers",
        "treespec, LeafSpec",
        "exists and is not empty",
        "smaller than the logging interval",
        r"module\(s\) in eval mode at the start of training",  # frozen towers are so on purpose
        "`tensorboardX` has been removed as a dependency",  # a CSV file is written, which is what was asked for
    ):
        warnings.filterwarnings("ignore", f".*{message}")


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's says what one wants to know: not what devices there are not."""
    return not any(part in record.getMessage() for part in _NO_NEWS)
