"""`ModelSize`: the parts of a model with their weights, and how many of them are trained, before a run begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelSummary
from rich.table import Table
from torch import nn

from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["ModelSize"]


class ModelSize(ModelSummary):
    """Prints a small table before training, in the place of Lightning's summary, which knows two parts of a CLIP model.

    Examples:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[ModelSize()], logger=False, enable_checkpointing=False)
        >>> sum(isinstance(callback, ModelSummary) for callback in trainer.callbacks)
        1
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rows = [(name, *_weights(part)) for name, part in _parts(pl_module)]
        rows = [row for row in rows if row[1]]
        whole, trained = _weights(pl_module)
        table = Table("part", "weights", "trained", box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.columns[1].justify = table.columns[2].justify = "right"
        for name, count, learning in [*rows, ("in all", whole, trained)]:
            share = "all" if learning == count else "none" if not learning else f"{100 * learning / count:.2g} %"
            table.add_row(name, short(count), share)
        PlainConsole(highlight=False).print(table)


def _parts(module: pl.LightningModule) -> Iterator[tuple[str, nn.Module]]:
    """The parts of the model, then those of the module beside it."""
    model = getattr(module, "model", None)
    if isinstance(model, nn.Module):
        yield from ((name.replace("_", " "), part) for name, part in model.named_children())
    yield from ((name.replace("_", " "), part) for name, part in module.named_children() if part is not model)


def _weights(module: nn.Module) -> tuple[int, int]:
    """Weights of all ranks together, and those that are trained."""
    sizes = [(_size(weight), weight.requires_grad) for weight in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _size(weight: Any) -> int:
    return int(getattr(weight, "ds_numel", weight.numel()))  # DeepSpeed leaves each rank its share


def short(count: int) -> str:
    """A number with a suffix.

    Examples:
        >>> short(803), short(12_300), short(4_000_000), short(1_200_000_000)
        ('803', '12.3 k', '4.0 M', '1.2 G')
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {suffix}"
    return str(count)
