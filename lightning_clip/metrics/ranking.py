"""Exact ranks in both directions from one pass over tiles of the score matrix, which is never held whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.metrics.checks import check_retrieval

__all__ = ["Ranks", "both_ranks", "caption_average_precision", "retrieval_scores"]

_ROWS, _COLUMNS = 1024, 4096
_RECHECKED = 1 << 14  # pairs whose scores are computed in float64 at a time


class Ranks(NamedTuple):
    """Ranks from 1; another's score that equals the own one counts as ahead of it.

    Attributes:
        text_to_image: int64 (M,), of each caption's image among all images.
        image_to_text: int64 (N,), of each image's best own caption among the captions of others.
        own: int64 (M,), 1 + the captions of others that are ahead of this one for its image; for average precision.
    """

    text_to_image: Tensor
    image_to_text: Tensor
    own: Tensor


def both_ranks(image_features: Tensor, text_features: Tensor, owner: Tensor, *, each_caption: bool = True) -> Ranks:
    """Ranks in both directions.

    Scores are inner products in float64 rounded to float32, as if the whole matrix were made of them. They are computed in
    float32, tile by tile; the few that lie within its error of what they are compared with are computed again in float64.

    Args:
        image_features: (N, D).
        text_features: (M, D).
        owner: int64 (M,), row of each caption's image; every image has at least one.
        each_caption: False saves ranking captions that are not their image's best; `own` is then zero for them.

    Examples:
        >>> ranks = both_ranks(torch.eye(3), torch.eye(3)[[0, 1, 2, 1]], torch.tensor([0, 1, 2, 0]))
        >>> ranks.text_to_image.tolist(), ranks.image_to_text.tolist(), ranks.own.tolist()
        ([1, 1, 1, 3], [1, 2, 1], [1, 2, 1, 3])
    """
    images, texts = image_features.float(), text_features.float()
    own = _scores(image_features, text_features, owner, torch.arange(len(texts), device=owner.device))
    captions, thresholds = _by_image(own, owner, len(images), each_caption)
    ahead_text = torch.zeros(len(texts), dtype=torch.int64, device=images.device)
    ahead_image = torch.zeros_like(thresholds, dtype=torch.int64)
    slack = _slack(images, texts)
    exact = _Exact(image_features, text_features)
    order = owner.argsort(stable=True)
    with _full_precision():
        for top in range(0, len(images), _ROWS):
            rows = slice(top, min(len(images), top + _ROWS))
            mine = order[torch.searchsorted(owner[order], rows.start) : torch.searchsorted(owner[order], rows.stop)]
            for left in range(0, len(texts), _COLUMNS):
                columns = slice(left, min(len(texts), left + _COLUMNS))
                tile = images[rows] @ texts[columns].T
                here = mine[(mine >= columns.start) & (mine < columns.stop)]
                tile[owner[here] - rows.start, here - columns.start] = -torch.inf  # an own one is never ahead
                ahead_text[columns] += _ahead(tile.T, own[columns], slack, exact.turned(columns.start, rows.start))
                for place in range(thresholds.shape[1]):
                    at_least = thresholds[rows, place]
                    ahead_image[rows, place] += _ahead(tile, at_least, slack, exact.placed(rows.start, columns.start))
    given = captions >= 0
    ranks = torch.zeros(len(texts), dtype=torch.int64, device=images.device)
    ranks[captions[given]] = 1 + ahead_image[given]
    return Ranks(1 + ahead_text, 1 + ahead_image[:, 0], ranks)


def caption_average_precision(own: Tensor, owner: Tensor, images: int) -> Tensor:
    """Mean over images of the average precision of their captions, float64 ().

    The j-th best own caption is at place own_j + j - 1 of the whole list, j of the captions up to there being own.

    Args:
        own: int64 (M,), `Ranks.own`.
        owner: int64 (M,).
        images: N.
    """
    order = own.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    ranks, owners = own[order].double(), owner[order]
    starts = torch.searchsorted(owners, torch.arange(images, device=owners.device))
    number = torch.arange(len(owners), device=owners.device) - starts[owners] + 1
    precision = number / (ranks + number - 1)
    counts = torch.bincount(owners, minlength=images)
    total = torch.zeros(images, dtype=torch.float64, device=owners.device).index_add_(0, owners, precision)
    return (total / counts).mean()


def retrieval_scores(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    image_index: Tensor | None = None,
    with_precision: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`retrieval_metrics` with mean average precision, and the ranks behind them.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs, at least 1 each.
        image_index: integers (N,), the images' own numbers, all different; None counts 0 to N - 1.
        with_precision: False saves the time of ".../mean_average_precision".

    Returns:
        Metrics by name, and the ranks int64 of "text_to_image" (M,) and "image_to_text" (N,).

    Raises:
        InputError: as `retrieval_metrics`.
    """
    index = check_retrieval(image_features, text_features, text_image_index, ks, image_index)
    order = index.argsort()
    owner = order[torch.searchsorted(index[order], text_image_index.to(index))]
    ranks = both_ranks(image_features, text_features, owner, each_caption=with_precision)
    found = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    result: dict[str, Tensor] = {}
    for direction, of_queries in found.items():
        for k in ks:
            result[f"{direction}/recall@{k}"] = (of_queries <= k).float().mean()
        ordered = of_queries.sort().values
        result[f"{direction}/median_rank"] = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if with_precision:
        precision = caption_average_precision(ranks.own, owner, len(index))
        result["image_to_text/mean_average_precision"] = precision.float()
        result["text_to_image/mean_average_precision"] = (1 / ranks.text_to_image.double()).mean().float()
    return result, found


class _Exact:
    """Scores of single pairs in float64, rounded to float32."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.images, self.texts, self.row, self.column, self.swapped = images, texts, 0, 0, False

    def placed(self, row: int, column: int) -> _Exact:
        """For a tile whose first row and column are these."""
        self.row, self.column, self.swapped = row, column, False
        return self

    def turned(self, row: int, column: int) -> _Exact:
        """For a tile turned round, whose rows are captions."""
        self.row, self.column, self.swapped = row, column, True
        return self

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        first, second = rows + self.row, columns + self.column
        return _scores(self.images, self.texts, *((second, first) if self.swapped else (first, second)))


def _ahead(tile: Tensor, least: Tensor, slack: float, exact: _Exact) -> Tensor:
    """How many scores in each row of a tile are at least `least` (R,), int64 (R,)."""
    buffer = torch.empty_like(tile)  # in the tile's own layout, turned round or not
    ones = torch.ones(tile.shape[1], device=tile.device)
    surely = torch.ge(tile, (least + slack)[:, None], out=buffer) @ ones
    perhaps = torch.ge(tile, (least - slack)[:, None], out=buffer) @ ones
    counts: Tensor = surely.long()
    unsure = (perhaps != surely).nonzero().flatten()
    for rows in torch.split(unsure, 64):
        part, value = tile[rows], least[rows, None]
        row, column = ((part >= value - slack) & (part < value + slack)).nonzero(as_tuple=True)
        right = exact(rows[row], column) >= least[rows[row]]
        counts.index_add_(0, rows[row], right.long())
    return counts


def _scores(images: Tensor, texts: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    precise = torch.float32 if images.device.type == "mps" else torch.float64  # MPS has no float64
    parts = [
        (images[row].to(precise) * texts[column].to(precise)).sum(dim=1).float()
        for row, column in zip(torch.split(rows, _RECHECKED), torch.split(columns, _RECHECKED), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=images.device)


def _by_image(own: Tensor, owner: Tensor, images: int, each_caption: bool) -> tuple[Tensor, Tensor]:
    """Captions of each image, best first, -1 where it has no more, and their scores: (N, K); K = 1 for the best alone."""
    order = own.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    owners = owner[order]
    starts = torch.searchsorted(owners, torch.arange(images, device=owner.device))
    place = torch.arange(len(owners), device=owner.device) - starts[owners]
    width = int(place.max()) + 1 if each_caption else 1
    kept = place < width
    captions = torch.full((images, width), -1, dtype=torch.int64, device=owner.device)
    captions[owners[kept], place[kept]] = order[kept]
    thresholds = torch.where(captions >= 0, own[captions.clamp(min=0)], torch.inf)
    return captions, thresholds


def _slack(images: Tensor, texts: Tensor) -> float:
    """The most by which a float32 inner product may be wrong: D u |a| |b|, u = 2^-24 (Higham 2002, section 3.1)."""
    norms = float(images.norm(dim=1).max()) * float(texts.norm(dim=1).max())
    return 1.01 * (images.shape[1] + 2) * 2.0**-24 * norms


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, whose error is a thousand times larger."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
