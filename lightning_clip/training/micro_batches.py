"""Micro-batches: large batches on small memory, which holds one slice's activations at a time.

Each slice is encoded under activation checkpointing: its features stay, its activations are computed again when the
gradient comes back. The loss sees the whole batch, so the gradient is that of the whole batch (the idea of GradCache, Gao
et al. 2021, without a second code path).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.encoders.chunks import places_on, text_lengths
from lightning_clip.encoders.lookups import OneGradient

__all__ = ["check_micro_batches", "encode_in_slices", "take"]


def take(batch: PairBatch, rows: Tensor) -> PairBatch:
    """The samples at `rows` int64 (M,) of a batch, whatever columns it has."""
    whole = batch._replace(teachers=None, skipped=[])
    return PairBatch(*(_rows(value, rows, rows.tolist()) for value in whole))


def _rows(value: Any, rows: Tensor, places: list[int]) -> Any:
    """Rows of a tensor, a list, or of those inside mappings and tuples."""
    if isinstance(value, Tensor):
        return value[rows if rows.device == value.device else places_on(places, value.device)]
    if isinstance(value, Mapping):
        return {key: _rows(item, rows, places) for key, item in value.items()}
    if isinstance(value, tuple):
        parts = [_rows(item, rows, places) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return [value[place] for place in places] if value else value


def encode_in_slices(
    encode: Callable[[PairBatch], ClipOutput], batch: PairBatch, size: int, model: nn.Module | None = None
) -> ClipOutput:
    """What `encode(batch)` gives, with the activations of `size` pairs in memory at a time.

    Captions of like length go into the same slice, which is then padded to its own longest only. Random numbers (dropout,
    patch dropout) are drawn again alike when a slice is computed again.

    Args:
        encode: any function of a batch, such as `ClipModule.encode` or what a subclass made of it.
        batch: B pairs.
        size: pairs a slice.
        model: whose token tables `encode` looks up; each gets one gradient instead of one a slice and chunk.
    """
    tables = OneGradient(model or nn.Module())
    if size >= batch.size or not torch.is_grad_enabled():
        with _batch_statistics(), tables.in_use():
            return encode(batch)

    def encoded(rows: Tensor) -> ClipOutput:
        with tables.in_use():
            # The slice is taken inside: what waits for the backward pass is a few numbers, not a copy of the images.
            return encode(take(batch, rows))

    order = torch.tensor(_by_length(batch))
    *others, last = torch.split(order, size)
    parts = [checkpoint(encoded, rows, use_reentrant=False) for rows in others]
    # Its gradient comes back first, before any slice is computed again: it may as well keep its activations.
    parts.append(encoded(last))
    back = places_on(order.argsort().tolist(), batch.index.device)
    features, rows = (_together([getattr(part, name) for part in parts], back) for name in ("features", "rows"))
    return parts[0]._replace(features=features, rows=rows)


@contextmanager
def _batch_statistics() -> Iterator[None]:
    """Says what torch means where a batch of one has no statistics."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "a batch of 1 has no statistics for the model's batch normalisation: set local_batch_size to at least 2"
        ) from error


def _by_length(batch: PairBatch) -> list[int]:
    """The rows, those with short texts first."""
    lengths = batch.lengths
    if lengths is None:
        lengths = [0] * batch.size if batch.mask is None else text_lengths(batch.mask)
    return sorted(range(len(lengths)), key=lengths.__getitem__)


def _together(parts: list[Any], order: Tensor) -> Any:
    """What slices computed for their rows, for all rows in the order of the batch."""
    if isinstance(parts[0], Mapping):
        return {key: _together([part[key] for part in parts], order) for key in parts[0]}
    return torch.cat(parts)[order]


def check_micro_batches(model: nn.Module, micro_batch_size: int, local_batch_size: int | None) -> None:
    """Refuses what would make the result depend on the slices.

    Raises:
        InputError: a size that does not divide the batch, or batch normalisation that would see slices.
    """
    if local_batch_size is not None and local_batch_size % micro_batch_size:
        near = max(size for size in range(1, micro_batch_size + 1) if local_batch_size % size == 0)
        raise InputError(
            f"micro_batch_size {micro_batch_size} does not divide local_batch_size {local_batch_size}: "
            f"take {near}, or another divisor"
        )
    layers = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training]
    if layers:
        raise InputError(
            f"micro_batch_size {micro_batch_size} with batch normalisation ({len(layers)} layers, the first {layers[0]!r}): "
            "it would normalise by slices instead of the batch and the result would depend on their size. Use a tower "
            "without it (ViT, ConvNeXt), freeze its statistics (.eval()), or omit micro_batch_size"
        )
