"""`lightning-clip fit ... --find-batch-size`: the largest batch that fits into memory.

Lightning's own finder builds loaders of every size it tries, which fails above the data's size, and knows nothing of
micro-batches: here one batch of real pairs is repeated to the size in question and trained on once.
"""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from rich.console import Console

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data import ClipDataModule
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.training.averaged import use_trained
from lightning_clip.training.micro_batches import take
from lightning_clip.training.optim import build_optimizer

__all__ = ["find_batch_size", "largest_that_fits"]


def find_batch_size(trainer: pl.Trainer, module: ClipModule, data: ClipDataModule) -> int:
    """Sets the data's `local_batch_size` to the largest multiple of `micro_batch_size` (or 8) that fits, and returns it.

    A training step on one device, with a copy of the model: gradients, optimizer states and loss included. A tenth is left
    free. Several ranks need a little more for what they exchange.

    Raises:
        InputError: not even one slice fits.
    """
    step = module.micro_batch_size or 8
    device = trainer.strategy.root_device
    module.read_data(data)
    module.configure_model()
    data.attach(module).local_batch_size = min(step, len(data.source("train")))
    batch = next(iter(data.evaluation_loader(data.source("train"))))
    attempt = _attempt(trainer, module, batch, device)
    largest = len(data.source("train")) // trainer.world_size // step
    with Console(stderr=True).status("looking for the largest batch that fits"), _memory_errors_on_the_cpu(device):
        count = largest_that_fits(lambda slices: attempt(slices * step), largest)
    if count == 0:
        raise InputError(f"not even a batch of {step} fits into the memory of {device}: set a smaller micro_batch_size")
    size = max(1, count * 9 // 10) * step if count < largest else count * step
    data.local_batch_size = size
    bound = "memory is the bound" if count < largest else "the data is the bound"
    print(f"local_batch_size {size}: {bound}, {count * step} fitted")
    return size


def largest_that_fits(fits: Callable[[int], bool], largest: int) -> int:
    """The largest number up to `largest` for which `fits` holds, which holds up to some number; 0 if for none.

    Examples:
        >>> largest_that_fits(lambda size: size <= 37, 100)
        37
    """
    low, high = 0, 1
    while high <= largest and fits(high):
        low, high = high, 2 * high
    high = min(high, largest + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _attempt(trainer: pl.Trainer, module: ClipModule, batch: PairBatch, device: torch.device) -> Callable[[int], bool]:
    """Whether one training step on `size` pairs fits."""

    def fits(size: int) -> bool:
        try:
            _train_once(trainer, module, batch, size, device)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_oom_error(error)):
                raise
            return False
        finally:
            garbage_collection_cuda()
        return True

    return fits


def _train_once(trainer: pl.Trainer, module: ClipModule, batch: PairBatch, size: int, device: torch.device) -> None:
    trial = copy.deepcopy(module).to(device).train()
    optimizer = build_optimizer(trial.model, trial.training_settings.optimizer, set())
    use_trained([optimizer])
    pairs = take(batch, torch.arange(size) % batch.size)
    pairs = move_data_to_device(pairs, device)
    with trainer.precision_plugin.forward_context():
        loss = trial.compute_loss(trial.encode_batch(pairs), pairs)["loss"]
    torch.autograd.backward(loss)
    optimizer.step()


@contextmanager
def _memory_errors_on_the_cpu(device: torch.device) -> Iterator[None]:
    """Lets an allocation fail where Linux would rather kill the process: no more address space than there is memory."""
    memory = Path("/proc/meminfo")
    if device.type != "cpu" or not memory.is_file():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    available = _kilobytes(memory, "MemAvailable") * 0.9 + _kilobytes(Path("/proc/self/status"), "VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (int(available * 1024), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _kilobytes(path: Path, key: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])
