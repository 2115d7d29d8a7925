"""Captions from next-token probabilities: the most probable ones by beam search, or drawn from the nucleus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_clip.data.permutation import mix

__all__ = ["NextLogs", "beam_search", "nucleus_sampling"]

# Rows (R,), which images, those of one image one after the other; ids (R, L) that begin their captions; and int64 (R,), the row
# of the last call that each of them goes on from, or None where all kept theirs -> log-probabilities of the next id (R, V).
NextLogs = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def beam_search(
    next_logs: NextLogs, images: int, start: int, end: int, *, beams: int, max_tokens: int, length_penalty: float = 1.0
) -> list[list[int]]:
    """The caption of each image with the best of (sum of log-probabilities) / (number of ids)^length_penalty that is found.

    One beam is greedy search. A caption that has ended keeps its place among the beams; in the end those that have ended come
    before those that were cut.

    Args:
        next_logs: the model.
        images: N.
        start: id that begins each caption.
        end: id that ends it.
        beams: beginnings that are kept of each image.
        max_tokens: ids at most, without start and end.
        length_penalty: 0 compares sums, 1 means.

    Returns:
        Ids without start and end, one list an image.
    """
    ids = torch.full((images, beams, 1), start)
    scores = torch.full((images, beams), -torch.inf)
    scores[:, 0] = 0.0
    ended, lengths = torch.zeros(images, beams, dtype=torch.bool), torch.zeros(images, beams)
    rows = torch.arange(images)[:, None]  # (N, 1)
    every = rows.expand(-1, beams).flatten()  # (N K,)
    came_from: Tensor | None = None
    for step in range(max_tokens + 1):
        logs = next_logs(every, ids.flatten(0, 1), came_from).float().cpu().view(images, beams, -1)  # (N, K, V)
        logs[..., start] = -torch.inf
        if step == max_tokens:  # no room but for the end
            logs[..., torch.arange(logs.shape[-1]) != end] -= 1e4
        logs[ended] = -torch.inf  # what has ended goes on with its end alone, at no cost
        logs[..., end] = torch.where(ended, torch.zeros(()), logs[..., end])
        vocabulary = logs.shape[-1]
        scores, best = (scores[..., None] + logs).flatten(1).topk(beams, dim=1)  # (N, K V) -> (N, K)
        parent, chosen = best // vocabulary, best % vocabulary
        came_from = (rows * beams + parent).flatten() if beams > 1 else None
        ended, lengths = ended[rows, parent], lengths[rows, parent]
        lengths = torch.where(ended, lengths, lengths + 1)
        ids = torch.cat([ids[rows, parent], chosen[..., None]], dim=2)
        ended = ended | (chosen == end)
        if ended.all():
            break
    best = (scores / lengths.clamp(min=1) ** length_penalty).argmax(dim=1)
    return [_text(row, end) for row in ids[torch.arange(images), best].tolist()]


def nucleus_sampling(
    next_logs: NextLogs,
    numbers: Sequence[int],
    start: int,
    end: int,
    *,
    top_p: float,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> list[list[int]]:
    """Captions that are drawn: each id from the most probable ones that have `top_p` together (Holtzman et al. 2020).

    Args:
        next_logs: the model.
        numbers: of the images, N: what is drawn depends on them and the seed, not on how images are batched.
        start: id that begins each caption.
        end: id that ends it.
        top_p: in (0, 1].
        temperature: > 0; below 1 sharpens.
        max_tokens: ids at most, without start and end.
        seed: of the draws.

    Returns:
        Ids without start and end, one list an image.
    """
    draws = [torch.Generator().manual_seed(mix(seed, number) >> 1) for number in numbers]
    ids, rows = torch.full((len(numbers), 1), start), torch.arange(len(numbers))
    ended = torch.zeros(len(numbers), dtype=torch.bool)
    for _ in range(max_tokens):
        logs = next_logs(rows, ids, None).float().cpu() / temperature  # (N, V)
        logs[:, start] = -torch.inf
        shares, order = logs.softmax(dim=1).sort(dim=1, descending=True)
        shares = shares.masked_fill(shares.cumsum(dim=1) - shares >= top_p, 0.0)  # the first that reaches top_p is in
        drawn = torch.stack([torch.multinomial(row, 1, generator=draw) for row, draw in zip(shares, draws, strict=True)])
        chosen = torch.where(ended, end, order.gather(1, drawn)[:, 0])
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        ended = ended | (chosen == end)
        if ended.all():
            break
    return [_text(row, end) for row in ids.tolist()]


def _text(row: list[int], end: int) -> list[int]:
    """The ids between start and end."""
    return row[1 : row.index(end, 1)] if end in row[1:] else row[1:]
