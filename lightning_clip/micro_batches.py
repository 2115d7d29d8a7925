"""Large batches on small memory: a batch arrives, its features leave, and memory held one slice's activations at a time.

Each slice is encoded under activation checkpointing: its features stay, its activations are computed again when the
gradient comes back. The loss sees the whole batch, so the gradient is that of the whole batch (the idea of GradCache, Gao
et al. 2021, without a second code path).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_clip.errors import InputError
from lightning_clip.types import ClipOutput, PairBatch

__all__ = ["check_micro_batches", "encode_in_slices", "slices"]


def slices(batch: PairBatch, size: int) -> Iterator[PairBatch]:
    """Consecutive parts of `size` pairs, the last one smaller where the batch is no multiple."""
    for start in range(0, len(batch.image), size):
        part = slice(start, start + size)
        fields = {name: value and value[part] for name, value in batch._asdict().items() if not isinstance(value, Tensor)}
        tensors = {name: value[part] for name, value in batch._asdict().items() if isinstance(value, Tensor)}
        yield PairBatch(**{**fields, **tensors, "skipped": []})


def encode_in_slices(encode: Callable[[PairBatch], ClipOutput], batch: PairBatch, size: int) -> ClipOutput:
    """What `encode(batch)` gives, with the activations of `size` pairs in memory at a time.

    Random numbers (dropout, patch dropout) are drawn again alike when a slice is computed again.

    Args:
        encode: any function of a batch, such as `ClipModule.encode` or what a subclass made of it.
        batch: B pairs.
        size: pairs a slice.
    """
    if size >= len(batch.image) or not torch.is_grad_enabled():
        return encode(batch)
    parts: list[ClipOutput] = [checkpoint(encode, part, use_reentrant=False) for part in slices(batch, size)]
    return ClipOutput(
        _together([part.image_features for part in parts]),
        _together([part.text_features for part in parts]),
        *parts[0][2:],
    )


def _together(parts: list[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


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
