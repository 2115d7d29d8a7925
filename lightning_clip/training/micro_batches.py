"""Large batches on small memory: a batch arrives, its features leave, and memory held one slice's activations at a time.

Each slice is encoded under activation checkpointing: its features stay, its activations are computed again when the
gradient comes back. The loss sees the whole batch, so the gradient is that of the whole batch (the idea of GradCache, Gao
et al. 2021, without a second code path).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.encoders.chunks import text_lengths

__all__ = ["check_micro_batches", "encode_in_slices", "take"]


def take(batch: PairBatch, rows: Tensor) -> PairBatch:
    """The pairs at `rows` int64 (M,) of a batch."""
    places = rows.tolist()
    fields: dict[str, Any] = {}
    for name, value in batch._replace(teachers=None)._asdict().items():
        fields[name] = value[rows] if isinstance(value, Tensor) else value and [value[place] for place in places]
    return PairBatch(**{**fields, "skipped": []})


def encode_in_slices(encode: Callable[[PairBatch], ClipOutput], batch: PairBatch, size: int) -> ClipOutput:
    """What `encode(batch)` gives, with the activations of `size` pairs in memory at a time.

    Captions of like length go into the same slice, which is then padded to its own longest only. Random numbers (dropout,
    patch dropout) are drawn again alike when a slice is computed again.

    Args:
        encode: any function of a batch, such as `ClipModule.encode` or what a subclass made of it.
        batch: B pairs.
        size: pairs a slice.
    """
    if size >= len(batch.image) or not torch.is_grad_enabled():
        return encode(batch)
    lengths = text_lengths(batch.mask) if batch.lengths is None else batch.lengths
    order = torch.tensor(sorted(range(len(lengths)), key=lengths.__getitem__))
    *others, last = torch.split(order, size)
    # The slice is taken inside: what waits for the backward pass is a few numbers, not a copy of the images.
    parts = [checkpoint(lambda rows: encode(take(batch, rows)), rows, use_reentrant=False) for rows in others]
    # Its gradient comes back first, before any slice is computed again: it may as well keep its activations.
    parts.append(encode(take(batch, last)))
    back = order.argsort().to(batch.image.device)
    return ClipOutput(
        _together([part.image_features for part in parts], back),
        _together([part.text_features for part in parts], back),
        *parts[0][2:],
    )


def _together(parts: list[Tensor | None], order: Tensor) -> Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])[order]


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
            "without it (ViT, ConvNeXt), freeze its statistics (.eval()), or leave micro_batch_size out"
        )
