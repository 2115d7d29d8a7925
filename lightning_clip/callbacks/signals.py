"""`Signals`: those of a run that ask it to stop; noted when they come, and agreed on by all ranks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import lightning.pytorch as pl

__all__ = ["Signals"]

log = logging.getLogger(__name__)
_SAVES = b"\ninterrupted: saving after this step, then stopping (Ctrl-C again stops at once)\n"


class Signals:
    """Takes signals over from whoever has them, and gives them back.

    Args:
        names: of the signals.

    Attributes:
        received: the number of the last one that came.
        speaks: whether this rank answers Ctrl-C.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.received: int | None = None
        self.speaks = True
        self._before: dict[int, Any] = {}

    def numbers(self) -> list[int]:
        """Those that this system knows; Ctrl-C is not among them in a notebook or at a prompt, which shall live on."""
        usual = ("SIGINT",) if hasattr(sys, "ps1") or "ipykernel" in sys.modules else ()
        return [getattr(signal, name) for name in self.names if hasattr(signal, name) and name not in usual]

    def take(self, *, keyboard: bool = True) -> None:
        """Notes signals from now on; a thread that is not the main one may not.

        Args:
            keyboard: Ctrl-C too; without it that raises a KeyboardInterrupt as usual.
        """
        if not self._before:
            self.received = None
        for number in self.numbers():
            if number in self._before or (number == signal.SIGINT and not keyboard):
                continue
            try:
                self._before[number] = signal.signal(number, self.note)
            except ValueError:
                log.warning("signals are not watched: the run is not in the main thread")
                return

    def give_back(self) -> None:
        """To whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def note(self, number: int, frame: FrameType | None) -> None:
        """What a signal does; a second Ctrl-C ends the process and its workers."""
        if number == signal.SIGINT:
            if self.received == number:
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(128 + number)
            if self.speaks:
                os.write(2, _SAVES)  # not through the log, which may be at work right now
        self.received = number

    def agreed(self, trainer: pl.Trainer) -> int:
        """The signal that any rank has received, or 0; all ranks must ask."""
        own = self.received or 0
        if trainer.world_size == 1:
            return own
        told = [number for number in self.numbers() if trainer.strategy.reduce_boolean_decision(own == number, all=False)]
        return told[0] if told else 0
