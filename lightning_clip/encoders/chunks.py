"""Captions of very different length in one batch: sorted, cut into a few chunks, each padded to its own longest only.

Attention and every other layer treat a caption by itself, so the features are those of the whole batch padded to the end,
but most of the padding is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["chunk_sizes", "encode_in_chunks", "places_on", "text_lengths"]

# Lengths are rounded up to a multiple of this, which matrix products like and which keeps the shapes few.
_MULTIPLE = 8
# A chunk of fewer captions costs more to start than its padding would.
_FEWEST_ROWS = 32


def text_lengths(mask: Tensor) -> list[int]:
    """The place after the last token of each row of a mask (B, L). Waits for an accelerator; loaders know it beforehand."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths: list[int] = (mask * places).amax(dim=1).tolist()  # (B, L) -> B
    return lengths


def places_on(rows: Sequence[int], device: torch.device) -> Tensor:
    """Numbers of rows as int64 (R,) on a device, for whose copy nothing waits."""
    return torch.tensor(rows, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def chunk_sizes(lengths: Sequence[int], chunks: int) -> list[int]:
    """How many rows each chunk takes, so that the fewest tokens are computed.

    The number of chunks depends on the number of rows alone: under a sharding strategy every pass through a tower is a
    collective, and ranks with captions of other lengths must make equally many.

    Args:
        lengths: of the captions, ascending.
        chunks: the most chunks.

    Examples:
        >>> chunk_sizes([8] * 60 + [16] * 30 + [72] * 10, 3)
        [60, 30, 10]
        >>> chunk_sizes([8] * 100, 3)
        [34, 33, 33]
    """
    count = max(1, min(chunks, len(lengths) // _FEWEST_ROWS))
    padded = [-(-length // _MULTIPLE) * _MULTIPLE for length in lengths]
    # Only where the padded length changes is a cut worth anything.
    ends = [row for row in range(1, len(padded)) if padded[row] != padded[row - 1]] + [len(padded)]
    sizes = [end - start for start, end in pairwise(_best_cuts(padded, ends, min(count, len(ends))))]
    while len(sizes) < count:
        sizes = _halved(sizes) if len(sizes) > 1 else _even(sizes[0], count)
    return sizes


def _best_cuts(padded: Sequence[int], ends: Sequence[int], parts: int) -> list[int]:
    """The cuts into at most that many parts, first and last included, under which the fewest tokens are computed."""
    best: dict[int, tuple[int, list[int]]] = {0: (0, [0])}  # rows taken -> (tokens, cuts)
    for _ in range(parts):
        longer = dict(best)
        for taken, (tokens, cuts) in best.items():
            for end in ends:
                candidate = tokens + (end - taken) * padded[end - 1]
                if end > taken and (end not in longer or candidate < longer[end][0]):
                    longer[end] = (candidate, [*cuts, end])
        best = longer
    return best[len(padded)][1]


def encode_in_chunks(
    encode: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, mask: Tensor, lengths: Sequence[int] | None, chunks: int
) -> Tensor:
    """What `encode(tokens, mask)` gives (B, ...), without computing most of the padding.

    Args:
        encode: treats every row by itself and does not feel masked tokens at a row's end.
        tokens: int64 (B, L).
        mask: bool (B, L), True on text.
        lengths: of the captions; None reads them off the mask.
        chunks: the most parts the batch is cut into; 1 only cuts off what no caption uses.
    """
    lengths = text_lengths(mask) if lengths is None else lengths
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    sizes = chunk_sizes([lengths[row] for row in order], chunks)
    if len(sizes) == 1:
        return encode(*_trimmed(tokens, mask, lengths[order[-1]] if order else 0))
    place = places_on(order, tokens.device)
    parts, start = [], 0
    for size in sizes:
        rows = place[start : start + size]
        # (R, L) -> (R, length of the longest) -> (R, ...)
        parts.append(encode(*_trimmed(tokens[rows], mask[rows], lengths[order[start + size - 1]])))
        start += size
    return torch.cat(parts)[place.argsort()]  # rows back in their order: (B, ...)


def _trimmed(tokens: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
    width = max(_MULTIPLE, -(-length // _MULTIPLE) * _MULTIPLE)
    return tokens[:, :width], mask[:, :width]


def _even(rows: int, count: int) -> list[int]:
    return [rows // count + (place < rows % count) for place in range(count)]


def _halved(sizes: list[int]) -> list[int]:
    """The largest part cut in two."""
    place = max(range(len(sizes)), key=sizes.__getitem__)
    return [*sizes[:place], *_even(sizes[place], 2), *sizes[place + 1 :]]
