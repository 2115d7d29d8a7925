"""Books of a run: accelerator-seconds by device, and speeds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass

from lightning_clip.planning.flops import Flops

__all__ = ["AcceleratorClock", "Span", "Stopwatch"]


class AcceleratorClock:
    """Wall time times the number of devices, by name of device.

    Args:
        now: a clock in seconds.

    Examples:
        >>> clock = AcceleratorClock(now=iter([0.0, 10.0]).__next__)
        >>> clock.start(["H100", "H100", "A100"])
        >>> clock.stop()
        >>> clock.seconds
        {'H100': 20.0, 'A100': 10.0}
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._devices: Counter[str] = Counter()
        self._booked: dict[str, float] = {}
        self._since: float | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Accelerator-seconds up to this moment."""
        if self._since is not None:
            since, self._since = self._since, self._now()
            for name, count in self._devices.items():
                self._booked[name] = self._booked.get(name, 0.0) + (self._since - since) * count
        return dict(self._booked)

    def start(self, devices: Iterable[str]) -> None:
        """From now on time is booked on these, one name a rank."""
        self.stop()
        self._devices, self._since = Counter(devices), self._now()

    def stop(self) -> None:
        """No time is booked any more."""
        self._booked, self._since = self.seconds, None

    def restore(self, seconds: Mapping[str, float]) -> None:
        """Goes on from what an earlier run booked."""
        self._booked = dict(seconds)


class Stopwatch:
    """Seconds since the last reading, with what is left out.

    Args:
        now: a clock in seconds.

    Examples:
        >>> watch = Stopwatch(now=iter([0.0, 10.0]).__next__)
        >>> watch.leave_out(4.0)
        >>> watch.read()
        6.0
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._since, self._left_out = now(), 0.0

    def leave_out(self, seconds: float) -> None:
        """Takes time out of the next reading."""
        self._left_out += seconds

    def read(self) -> float:
        """Seconds since the last reading."""
        since, left_out = self._since, self._left_out
        self._since, self._left_out = self._now(), 0.0
        return max(0.0, self._since - since - left_out)


@dataclass(frozen=True)
class Span:
    """A stretch of training over all ranks.

    Args:
        samples: pairs seen.
        steps: optimizer steps.
        forward: FLOPs.
        backward: FLOPs.
        recomputed: FLOPs done a second time.
        timed_samples: pairs of the steps that were timed.
        timed_flops: their forward and backward FLOPs.
        seconds: wall time of those steps.
    """

    samples: int = 0
    steps: int = 0
    forward: float = 0
    backward: float = 0
    recomputed: float = 0
    timed_samples: int = 0
    timed_flops: float = 0
    seconds: float = 0

    @classmethod
    def of_batch(cls, samples: int, flops: Flops, *, timed: bool) -> Span:
        """One batch, before its step and time are known."""
        own = cls(samples, 0, flops.forward, flops.backward, flops.recomputed)
        return own + cls(timed_samples=samples, timed_flops=flops.useful) if timed else own

    def __add__(self, other: Span) -> Span:
        return Span(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def samples_per_second(self) -> float | None:
        """None if no step was timed."""
        return self.timed_samples / self.seconds if self.timed_samples and self.seconds else None

    @property
    def flops_per_second(self) -> float | None:
        """Forward and backward FLOPs, None if no step was timed."""
        return self.timed_flops / self.seconds if self.timed_samples and self.seconds else None
