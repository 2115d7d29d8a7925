"""`ComputeMeter`: speed, FLOPs, MFU and accelerator time of a fit, over all ranks and restarts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.planning.devices import device_name, known_device, peak_flops_of
from lightning_clip.planning.flops import FlopCounter, Flops
from lightning_clip.planning.ledger import AcceleratorClock, Span, Stopwatch
from lightning_clip.planning.tables import compute_table
from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["ComputeMeter"]

# Steps of one batch shape that are counted: within a shape, the lengths of captions still make a difference.
_COUNTED = {1, 10, 100, 1000, 10_000, 100_000}


class ComputeMeter(pl.Callback):
    """Measures what training costs; the count is kept in the checkpoint and continues when a run is resumed.

    Logs, every `log_every_n_steps`, figures of all ranks together:

    - `compute/samples_per_second`, without validation;
    - `compute/forward_flops_per_step`, `compute/backward_flops_per_step`, and `compute/recomputed_flops_per_step`: forward work
      that activation checkpointing or micro-batches do a second time;
    - `compute/mfu`: forward and backward FLOPs per second as a share of the devices' peak at the Trainer's precision;
    - `compute/accelerator_hours`, and `compute/accelerator_hours_of/DEVICE` by name of device: wall time of the fit, validation
      included, times the number of ranks, over all runs that led here. No name is the folder of another: some loggers make
      files of them.

    FLOPs are counted on the first, tenth, hundredth ... step of each batch shape; these steps run uncompiled and are excluded
    of the speed, the others are taken to cost the mean of theirs. No step waits for the device on account of the meter. Ranks
    are taken to do equal work. A killed run loses the time after its last checkpoint.

    Args:
        peak_flops: FLOP/s of a device, for MFU; None looks the device up, and without a known peak there is no MFU.

    Raises:
        InputError: a peak that is not positive.

    Examples:
        >>> ComputeMeter(peak_flops=1e11).accelerator_seconds
        {}
    """

    _now = staticmethod(time.perf_counter)

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and not peak_flops > 0:
            raise InputError(f"peak_flops {peak_flops:g} must be > 0: FLOP/s of one device, such as 312e12")
        self.peak_flops = peak_flops
        self.run, self.earlier = Span(), Span()
        self._peak: float | None = None
        self._clock, self._watch = AcceleratorClock(self._now), Stopwatch(self._now)
        self._window, self._first_step = Span(), 0
        self._seen: Counter[Any] = Counter()
        self._measured: dict[Any, list[Flops]] = {}
        self._counting: _Counting | None = None
        self._counting_since = self._paused = 0.0

    @property
    def accelerator_seconds(self) -> dict[str, float]:
        """By name of device, over all ranks and all runs that led here."""
        return self._clock.seconds

    # -- a fit ------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        name = device_name(pl_module.device)
        self.earlier, self.run = self.earlier + self.run, Span()
        self._seen, self._measured = Counter(), {}
        self._peak = self.peak_flops or _known_peak(name, str(trainer.precision))
        self._clock.start(_names_of_ranks(name))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._window, self._first_step = Span(), trainer.global_step
        self._watch.read()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        shapes = _shapes(batch)
        self._seen[shapes] += 1
        if self._seen[shapes] in _COUNTED:
            self._counting, self._counting_since = _Counting(pl_module), self._now()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self._counting:
            self._counting.counter.backward()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._counting:
            self._counting.counter.forward()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shapes = _shapes(batch)
        timed = self._counting is None
        if self._counting:
            flops = self._counting.stop()
            self._measured.setdefault(shapes, []).append(flops)
            self._watch.leave_out(self._now() - self._counting_since)
            self._counting = None
        else:
            counts = self._measured[shapes]
            flops = sum(counts, Flops()) * (1 / len(counts))
        world_size = trainer.world_size
        self._window += Span.of_batch(shapes[0][0] * world_size, flops * world_size, timed=timed)
        step, interval = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if interval and step % interval == 0 and step > self._first_step:
            window = self._close_window(step)
            pl_module.log_dict(self._figures(window, world_size), batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused = self._now()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._watch.leave_out(self._now() - self._paused)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close_window(trainer.global_step)
        self._clock.stop()
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            peak = None if self._peak is None else self._peak * trainer.world_size
            PlainConsole().print(compute_table(self.run, self.earlier, self.accelerator_seconds, peak))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._counting:
            self._counting.stop()
            self._counting = None
        self._clock.stop()

    # -- the checkpoint ---------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        return "ComputeMeter"

    def state_dict(self) -> dict[str, Any]:
        return {"accelerator_seconds": self.accelerator_seconds, "span": asdict(self.earlier + self.run + self._window)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.restore(state_dict["accelerator_seconds"])
        self.run, self.earlier = Span(), Span(**state_dict["span"])

    # -- details ----------------------------------------------------------------------------------------------------

    def _close_window(self, step: int) -> Span:
        window = self._window + Span(steps=step - self._first_step, seconds=self._watch.read())
        self.run += window
        self._window, self._first_step = Span(), step
        return window

    def _figures(self, window: Span, world_size: int) -> dict[str, float]:
        seconds = self.accelerator_seconds
        figures = {
            f"{part}_flops_per_step": getattr(window, part) / window.steps for part in ("forward", "backward", "recomputed")
        }
        figures["accelerator_hours"] = sum(seconds.values()) / 3600
        figures |= {f"accelerator_hours_of/{name.replace(' ', '_')}": spent / 3600 for name, spent in seconds.items()}
        if window.samples_per_second and window.flops_per_second:
            figures["samples_per_second"] = window.samples_per_second
            if self._peak:
                figures["mfu"] = window.flops_per_second / (self._peak * world_size)
        return {f"compute/{name}": value for name, value in figures.items()}


class _Counting:
    """A step under the counter, from its first moment to `stop`."""

    def __init__(self, module: nn.Module) -> None:
        self.counter, self._contexts = FlopCounter(), ExitStack()
        if any(getattr(part, "_compiled_call_impl", None) or hasattr(part, "_orig_mod") for part in module.modules()):
            # Compiled code hides its products from the counter.
            self._contexts.enter_context(torch.compiler.set_stance("force_eager"))  # type: ignore[no-untyped-call]
        self._contexts.enter_context(self.counter)

    def stop(self) -> Flops:
        self._contexts.close()
        return self.counter.flops


def _known_peak(name: str, precision: str) -> float | None:
    device = known_device(name)
    try:
        return peak_flops_of(device, precision) if device else None
    except InputError:  # the device emulates that format, or the precision is none of those known
        return None


def _names_of_ranks(name: str) -> list[str]:
    if not (dist.is_available() and dist.is_initialized()):
        return [name]
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, name)
    return names


def _shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    """Of the tensors of a batch, the samples' number being the first of the first."""
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    return tuple(tuple(part.shape) for part in parts if isinstance(part, Tensor)) or ((1,),)
