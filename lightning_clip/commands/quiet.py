"""Hints of Lightning that do not help on the command line, hidden without importing it."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet"]


def quiet() -> None:
    """Hides hints that do not help here: about loader workers (recipes choose them), log intervals and seeds."""
    for name in ("lightning.fabric.utilities.seed", "lightning.pytorch.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.getMessage())
    for message in (
        "does not have many workers",
        "treespec, LeafSpec",
        "exists and is not empty",
        "smaller than the logging interval",
        r"module\(s\) in eval mode at the start of training",  # frozen towers are so on purpose
    ):
        warnings.filterwarnings("ignore", f".*{message}")
