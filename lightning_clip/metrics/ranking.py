"""Exact ranks in both directions from one pass over tiles of the score matrix, which is never held whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.precision import full_precision

__all__ = ["ImageRows", "Ranks", "both_ranks", "pair_scores"]

# Rows and columns of a tile: on a CPU near its caches, on an accelerator large enough to fill it.
_TILE, _ACCELERATOR_TILE = (1024, 4096), (4096, 16384)
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
    own = pair_scores(image_features, text_features, owner, torch.arange(len(text_features), device=owner.device))
    rows = ImageRows(image_features, own, owner, each_caption)
    ahead_text = rows.meet(text_features, owner, own)
    return Ranks(1 + ahead_text, rows.best(), rows.of_captions(len(own)))


class ImageRows:
    """Images that captions pass by, in one block or several: who is ahead of whom.

    Args:
        images: (N, D).
        own: (C,), scores of these images' own captions.
        owner: int64 (C,), row of each one's image; every image has at least one.
        each_caption: False counts for each image's best caption alone.
    """

    def __init__(self, images: Tensor, own: Tensor, owner: Tensor, each_caption: bool) -> None:
        self.features, self.images = images, images.float()
        self.captions, self.thresholds = _by_image(own, owner, len(images), each_caption)  # (N, K)
        self.ahead = torch.zeros_like(self.thresholds, dtype=torch.int64)
        self._tile = _TILE if images.device.type == "cpu" else _ACCELERATOR_TILE

    def meet(self, text_features: Tensor, owner: Tensor, own: Tensor) -> Tensor:
        """Counts what is ahead, both ways: of the images' captions here, of the captions in what it returns.

        Args:
            text_features: (M, D).
            owner: int64 (M,), row of each caption's image, -1 for one whose image is none of these.
            own: (M,), each caption's score with its image.

        Returns:
            int64 (M,), images that are ahead of each caption's own.
        """
        ahead_text = torch.zeros(len(text_features), dtype=torch.int64, device=self.images.device)
        if not len(ahead_text) or not len(self.images):
            return ahead_text
        texts, (height, width) = text_features.float(), self._tile
        slack, exact = _slack(self.images, texts), _Exact(self.features, text_features)
        order = owner.argsort(stable=True)
        with full_precision():
            for top in range(0, len(self.images), height):
                rows = slice(top, min(len(self.images), top + height))
                mine = order[torch.searchsorted(owner[order], rows.start) : torch.searchsorted(owner[order], rows.stop)]
                for left in range(0, len(texts), width):
                    columns = slice(left, min(len(texts), left + width))
                    tile = self.images[rows] @ texts[columns].T
                    here = mine[(mine >= columns.start) & (mine < columns.stop)]
                    tile[owner[here] - rows.start, here - columns.start] = -torch.inf  # an own one is never ahead
                    ahead_text[columns] += _ahead(tile.T, own[columns], slack, exact.turned(columns.start, rows.start))
                    for place in range(self.thresholds.shape[1]):
                        at_least, placed = self.thresholds[rows, place], exact.placed(rows.start, columns.start)
                        self.ahead[rows, place] += _ahead(tile, at_least, slack, placed)
        return ahead_text

    def best(self) -> Tensor:
        """The rank of each image's best caption, int64 (N,)."""
        return 1 + self.ahead[:, 0]

    def of_captions(self, count: int) -> Tensor:
        """1 + the captions of others ahead of each of the `count` own ones, int64 (C,), 0 for one that was not counted for."""
        given = self.captions >= 0
        ranks = torch.zeros(count, dtype=torch.int64, device=self.images.device)
        ranks[self.captions[given]] = 1 + self.ahead[given]
        return ranks


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
        return pair_scores(self.images, self.texts, *((second, first) if self.swapped else (first, second)))


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


def pair_scores(images: Tensor, texts: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products of single pairs in float64, rounded to float32, (P,).

    Args:
        images: (N, D).
        texts: (M, D).
        rows: int64 (P,) of images.
        columns: int64 (P,) of texts.
    """
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
    width = int(place.max()) + 1 if each_caption and len(place) else 1
    kept = place < width
    captions = torch.full((images, width), -1, dtype=torch.int64, device=owner.device)
    captions[owners[kept], place[kept]] = order[kept]
    thresholds = torch.where(captions >= 0, own[captions.clamp(min=0)], torch.inf)
    return captions, thresholds


def _slack(images: Tensor, texts: Tensor) -> float:
    """The most by which a float32 inner product may be wrong: D u |a| |b|, u = 2^-24 (Higham 2002, section 3.1)."""
    norms = float(images.norm(dim=1).max()) * float(texts.norm(dim=1).max())
    return 1.01 * (images.shape[1] + 2) * 2.0**-24 * norms
