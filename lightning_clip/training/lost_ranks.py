"""`LostRanks`: an error of one rank, told by the others too; and the name of a rank that has fallen silent."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from lightning_clip.core.distributed import world

__all__ = ["LostRanks", "is_lost_rank"]

# What gloo, NCCL and the store say when another rank is gone, and when it does not answer.
_GONE = re.compile(r"connection (was )?(reset|closed|refused)|broken pipe|socket ?(timeout|error)|remote process exited", re.I)
_SILENT = re.compile(r"timed? ?out", re.I)
_KEY = "lightning_clip/lost_ranks"
_MARK = "lightning_clip_lost_rank"
_PATIENCE = 3.0  # seconds in which ranks that wait as this one does are heard of
_LETTERS = 400


class LostRanks(pl.Callback):
    """Says on every rank why the run has ended, where torch says "connection reset" or "timed out".

    A rank that fails leaves its error in the store of the process group before it ends, and the others put it into their own
    errors. The store ends with the first rank where no launcher keeps it: then they say that it was this one. Where ranks have
    waited for `seconds`, those that wait too are found there, and the one that is missing is named.
    A `ClipModule` brings this callback; a time that was given to the strategy itself (`timeout`) is kept.

    Args:
        seconds: that ranks wait for each other before the run ends.

    Examples:
        >>> LostRanks(600.0).seconds
        600.0
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def limit(self, strategy: Any) -> None:
        """Sets the time, before the strategy makes its process group."""
        if getattr(strategy, "_timeout", None) == default_pg_timeout:
            strategy._timeout = timedelta(seconds=self.seconds)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves word of an error of this rank, or completes one that another rank has caused."""
        rank, ranks = world()
        if ranks == 1 or not isinstance(exception, Exception):
            return
        store = _Store()
        text = str(exception)
        silent, gone = bool(_SILENT.search(text)), bool(_GONE.search(text))
        if not isinstance(exception, RuntimeError) or not (silent or gone):
            store.put("failed", f"rank {rank}: {type(exception).__name__}: {' '.join(text.split())[:_LETTERS]}")
            return
        store.put(f"waits/{rank}", "")
        if silent:
            store.put("silent", "")
        exception.args = (self._explained(store, rank, ranks, silent),)
        setattr(exception, _MARK, True)

    def _explained(self, store: _Store, rank: int, ranks: int, silent: bool) -> str:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and store.is_there:
            if (failed := store.get("failed")) is not None:
                return f"rank {rank} ends because another has failed: {failed}"
            time.sleep(0.2)
        others = [other for other in range(ranks) if other != rank]
        missing = [other for other in others if store.get(f"waits/{other}") is None]
        if not store.is_there:
            missing = [0]  # which kept the store, unless a launcher does
        named = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}" if missing else "another rank"
        if silent or store.get("silent") is not None:
            return (
                f"rank {rank} has waited {self.seconds:g} s for {named}: look there for a process that hangs or has too much "
                "to do, or let ranks wait longer (training.execution.rank_timeout, in seconds)"
            )
        return f"rank {rank} has lost {named}, which ended first: its own last line says why; without one it was killed"


class _Store:
    """The store of the process group; it may be gone with the rank that kept it, and then nothing is known."""

    def __init__(self) -> None:
        self._store: Any = None
        with suppress(Exception):  # torch raises of several kinds
            c10d: Any = dist.distributed_c10d
            self._store = c10d.PrefixStore(_KEY, c10d._get_default_store())

    @property
    def is_there(self) -> bool:
        """Whether it has answered until now."""
        return self._store is not None

    def put(self, key: str, text: str) -> None:
        try:
            self._store.set(key, text)
        except Exception:
            self._store = None  # asking again would write torch's stack to the log each time

    def get(self, key: str) -> str | None:
        try:
            return str(self._store.get(key).decode()) if self._store.check([key]) else None
        except Exception:
            self._store = None
            return None


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error says what another rank has done."""
    return getattr(error, _MARK, False)
