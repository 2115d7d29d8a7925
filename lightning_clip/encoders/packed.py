"""Captions packed end to end: a row for each token of the batch, none for padding, and one for beginnings that captions share.

Under causal attention a token depends on those before it alone, so captions that begin alike are alike up to where they part:
"a photo of a cat" and "a photo of a dog" share five rows of eight, the first of which all captions share. Linear layers, norms
and MLPs run on the rows; attention runs over groups of captions of about one length, each padded to its longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, split
from torch.nn.functional import embedding, scaled_dot_product_attention

__all__ = ["Group", "Packed", "attend_in_groups", "attend_to_ends", "best_groups", "pack"]

# What attention over one more group costs to start, in tokens of padding that could be looked at meanwhile.
_GROUP_COSTS = 48


class Group(NamedTuple):
    """Captions that attention takes together.

    Args:
        captions: how many.
        length: in tokens of the longest, to which attention pads the others.
    """

    captions: int
    length: int


class Packed(NamedTuple):
    """Where the tokens of a batch stand when they are packed, captions being sorted by length.

    Args:
        tokens: int64 (U,), where each row's token stands in the flattened batch (B * L).
        positions: int64 (U,), of each row's token in its caption.
        places: int64 (P,), the row of each token of all groups, padding included.
        first: int64 (U,), where among these P each row stands first.
        ends: int64 (B,), the row of each caption's last token.
        last: int64 (B,), the position of that token in its caption.
        back: int64 (B,), where among the sorted captions each caption of the batch stands.
        groups: of captions, shortest first.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    first: Tensor
    ends: Tensor
    last: Tensor
    back: Tensor
    groups: tuple[Group, ...]


def pack(tokens: Tensor, lengths: Sequence[int], share: bool = True) -> Packed:
    """How a batch is packed.

    Args:
        tokens: int64 (B, L) on the CPU.
        lengths: of B >= 1 captions; one without a token is read at its first.
        share: captions that begin alike have one row for each token of their common beginning.

    Examples:
        >>> found = pack(torch.tensor([[7, 5, 9], [7, 9, 0]]), [3, 2])
        >>> found.tokens.tolist(), found.ends.tolist(), [tuple(group) for group in found.groups]
        ([3, 4, 1, 2], [1, 3], [(2, 3)])
    """
    width, ids = tokens.shape[1], tokens.tolist()
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ordered = [max(1, lengths[row]) for row in order]
    groups = best_groups(ordered)
    padded = [group.length for group in groups for _ in range(group.captions)]
    rows: dict[tuple[int, int], int] = {}  # (row of the token before, token) -> row
    standing: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    first: list[int] = []
    ends: list[int] = []
    for caption, length, end in zip(order, ordered, padded, strict=True):
        row = -1 if share else -1 - caption
        for position in range(length):
            key = (row, ids[caption][position])
            found = rows.get(key)
            if found is None:
                found = rows[key] = len(standing)
                standing.append(caption * width + position)
                positions.append(position)
                first.append(len(places))
            row = found
            places.append(row)
        ends.append(row)
        places.extend([row] * (end - length))  # any row will do: no token before it looks there
    return Packed(
        tokens=torch.tensor(standing),
        positions=torch.tensor(positions),
        places=torch.tensor(places),
        first=torch.tensor(first),
        ends=torch.tensor(ends),
        last=torch.tensor(ordered) - 1,
        back=torch.tensor(order).argsort(),
        groups=groups,
    )


def best_groups(lengths: Sequence[int]) -> tuple[Group, ...]:
    """Groups of captions under which padding and starting attention cost least together.

    Args:
        lengths: ascending, at least 1.

    Examples:
        >>> [tuple(group) for group in best_groups([5, 6, 6, 60])]
        [(3, 6), (1, 60)]
    """
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    best: list[tuple[int, int]] = [(0, 0)]  # of the first runs: (cost, first run of the last group)
    for end in range(1, len(runs) + 1):
        count, options = 0, []
        for begin in range(end - 1, -1, -1):
            count += runs[begin][1]
            options.append((best[begin][0] + count * runs[end - 1][0] + _GROUP_COSTS, begin))
        best.append(min(options))
    groups, end = [], len(runs)
    while end:
        begin = best[end][1]
        groups.append(Group(sum(count for _, count in runs[begin:end]), runs[end - 1][0]))
        end = begin
    return tuple(reversed(groups))


def attend_in_groups(qkv: Tensor, packed: Packed) -> Tensor:
    """Causal attention of each caption to itself alone.

    Args:
        qkv: queries, keys and values (U, 3, H, D).
        packed: where they stand.

    Returns:
        (U, H, D).
    """
    parts = []
    for group, part in zip(packed.groups, _in_groups(qkv, packed), strict=True):
        heads = part.view(group.captions, group.length, *qkv.shape[1:]).unbind(2)  # (C l, 3, H, D) -> 3 x (C, l, H, D)
        query, key, value = (head.transpose(1, 2) for head in heads)
        found = scaled_dot_product_attention(query, key, value, is_causal=True)  # (C, H, l, D)
        parts.append(found.transpose(1, 2).flatten(0, 1))  # -> (C l, H, D)
    together = torch.cat(parts)  # (P, H, D)
    return together.index_select(0, packed.first)


def attend_to_ends(query: Tensor, key_value: Tensor, packed: Packed) -> Tensor:
    """Attention of each caption's last token to all of its tokens.

    Args:
        query: of the last tokens, in the order of the groups, (B, H, D).
        key_value: of all tokens (U, 2, H, D).
        packed: where they stand.

    Returns:
        (B, H, D).
    """
    counts, parts = [group.captions for group in packed.groups], []
    in_groups = zip(packed.groups, split(query, counts), split(packed.last, counts), _in_groups(key_value, packed), strict=True)
    for group, own, last, part in in_groups:
        key, value = part.view(group.captions, group.length, *key_value.shape[1:]).unbind(2)  # 2 x (C, l, H, D)
        seen = torch.arange(group.length) <= last[:, None]  # (C, l)
        found = scaled_dot_product_attention(
            own.unsqueeze(2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=seen[:, None, None]
        )  # (C, H, 1, D)
        parts.append(found.squeeze(2))
    return torch.cat(parts)


def _in_groups(values: Tensor, packed: Packed) -> tuple[Tensor, ...]:
    """Rows (U, ...) for all tokens of each group: (C l, ...)."""
    # Looked up, as the gradient of a lookup is added up faster than that of an index.
    found = embedding(packed.places, values.flatten(1)).view(-1, *values.shape[1:])  # (U, ...) -> (P, ...)
    return split(found, [group.captions * group.length for group in packed.groups])
