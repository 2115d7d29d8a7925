"""Matches between N images and M texts by ids: who belongs to whom, on whichever ranks they are.

The matrix of all matches may be as large as that of the logits (when few labels serve as ids), so it is never written down.
A few of them are *singled out*, at most N + M: a text for each image that has any and an image for each text, spread evenly
over those with the same id. They are computed one by one in wide precision and never enter the tiles, as the pairs of a
square batch do. An image with several captions, or a caption of several images, has all its matches among them. What more
there is changes a loss by sums of features only (see `lightning_clip.losses.targets`), and costs O((N + M) D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.tiling import wide

__all__ = ["NOBODY", "Group", "Matches", "Own", "find_matches", "summed_matches"]

# The id that matches nothing, for images and texts that are negatives of all others.
NOBODY = -1


class Group(NamedTuple):
    """Images and texts with one id, for each id of one column of ids.

    Attributes:
        sign: of its members' matches in the union over columns (inclusion and exclusion), 1 or -1.
        rows: int64 (N,), the group of each image of all ranks.
        columns: int64 (M,), the group of each text of all ranks.
        number: of groups.
    """

    sign: int
    rows: Tensor
    columns: Tensor
    number: int

    def turned(self) -> Group:
        """The same with texts as rows and images as columns."""
        return Group(self.sign, self.columns, self.rows, self.number)


class Own(NamedTuple):
    """One side's rows on this rank, images or texts.

    Attributes:
        part: which of all ranks' they are.
        matches: int64 (B,), how many each has.
        whole: bool (B,), whether all of them are singled out.
        total: of all ranks' rows, those that have a match.
    """

    part: slice
    matches: Tensor
    whole: Tensor
    total: Tensor


@dataclass(frozen=True)
class Matches:
    """The matches as one rank needs them.

    Attributes:
        row: int64 (E,), this rank's image of each singled-out match that it owns.
        column: int64 (E,), its text among those of all ranks.
        sizes: E of each rank.
        own: int64 (F,), the singled-out matches of all ranks, in rank order, that are with texts of this rank.
        own_column: int64 (F,), their text on this rank.
        images: this rank's images.
        texts: this rank's texts.
        groups: by ids, for what is not singled out; empty where everything is.
    """

    row: Tensor
    column: Tensor
    sizes: list[int]
    own: Tensor
    own_column: Tensor
    images: Own
    texts: Own
    groups: list[Group]


def find_matches(image_ids: Tensor, text_ids: Tensor, exchange: Exchange) -> Matches:
    """Finds what belongs together.

    Args:
        image_ids: int64 (N,) or (N, K) of this rank, K <= 2.
        text_ids: int64 (M,) or (M, K): an image and a text match if they are equal in any column and not -1 there.
        exchange: how the ranks meet; images are its rows, texts its columns.

    Raises:
        InputError: on every rank, where nothing matches on any.
    """
    images, texts = (ids[:, None] if ids.ndim == 1 else ids for ids in (image_ids, text_ids))
    all_images = exchange.over(exchange.row_sizes).all_rows(images)  # (B, K) -> (N, K)
    all_texts = exchange.all_rows(texts)  # (B', K) -> (M, K)
    groups = _groups(all_images, all_texts)
    image_count = sum(group.sign * torch.bincount(group.columns, minlength=group.number)[group.rows] for group in groups)
    text_count = sum(group.sign * torch.bincount(group.rows, minlength=group.number)[group.columns] for group in groups)
    assert isinstance(image_count, Tensor) and isinstance(text_count, Tensor)
    if not image_count.any():
        raise InputError(
            f"positives: none of {len(all_images)} images shares an id with one of {len(all_texts)} texts: give both the same "
            f"ids, and {NOBODY} only to those that belong to nobody"
        )
    row, column = _single_out(groups, len(all_images), len(all_texts))  # of all ranks, image by image
    whole_images = torch.bincount(row, minlength=len(all_images)) == image_count
    whole_texts = torch.bincount(column, minlength=len(all_texts)) == text_count
    ends = torch.tensor(exchange.row_sizes, device=row.device).cumsum(0)
    bounds = [0, *torch.searchsorted(row, ends).tolist()]
    first_image = sum(exchange.row_sizes[: exchange.rank])
    image_part = slice(first_image, first_image + len(images))
    text_part = slice(exchange.offset, exchange.offset + len(texts))
    mine = slice(bounds[exchange.rank], bounds[exchange.rank + 1])
    own = ((column >= text_part.start) & (column < text_part.stop)).nonzero().squeeze(1)
    everything = bool(whole_images.all() & whole_texts.all())
    return Matches(
        row[mine] - image_part.start,
        column[mine],
        [high - low for low, high in pairwise(bounds)],
        own,
        column[own] - text_part.start,
        Own(image_part, image_count[image_part], whole_images[image_part], (image_count > 0).sum()),
        Own(text_part, text_count[text_part], whole_texts[text_part], (text_count > 0).sum()),
        [] if everything else [_unfinished(group, whole_images, whole_texts) for group in groups],
    )


def _groups(images: Tensor, texts: Tensor) -> list[Group]:
    """Of each column of the ids (N, K) and (M, K), and of both columns together."""
    columns = [(1, images[:, [place]], texts[:, [place]]) for place in range(images.shape[1])]
    if images.shape[1] == 2:
        columns.append((-1, images, texts))
    found = []
    for sign, image_keys, text_keys in columns:
        keys, group = torch.unique(torch.cat([image_keys, text_keys]), dim=0, return_inverse=True)
        image, text = group.split([len(images), len(texts)])
        # Who belongs to nobody gets a group without members of the other side.
        image = image.where((image_keys != NOBODY).all(dim=1), len(keys))
        text = text.where((text_keys != NOBODY).all(dim=1), len(keys) + 1)
        found.append(Group(sign, image, text, len(keys) + 2))
    return found


def _single_out(groups: Sequence[Group], images: int, texts: int) -> tuple[Tensor, Tensor]:
    """An image for each text and a text for each image, without repetition: images (E,) in order, and texts (E,)."""
    device = groups[0].rows.device
    of_image, of_text = (torch.full((count,), -1, device=device) for count in (images, texts))
    for group in groups:
        if group.sign > 0:
            of_image = of_image.where(of_image >= 0, _partners(group.rows, group.columns, group.number))
            of_text = of_text.where(of_text >= 0, _partners(group.columns, group.rows, group.number))
    image, text = (of_image >= 0).nonzero().squeeze(1), (of_text >= 0).nonzero().squeeze(1)
    codes = torch.unique(torch.cat([image * texts + of_image[image], of_text[text] * texts + text]))
    return codes // texts, codes % texts


def _partners(side: Tensor, other: Tensor, count: int) -> Tensor:
    """For each member (B,) of one side one of the other side in its group, the first for the first; -1 where there is none."""
    size = torch.bincount(other, minlength=count)
    start = size.cumsum(0) - size
    order = torch.argsort(other, stable=True)
    own_size = torch.bincount(side, minlength=count)
    own_order = torch.argsort(side, stable=True)
    place = torch.empty_like(side)
    place[own_order] = torch.arange(len(side), device=side.device) - (own_size.cumsum(0) - own_size)[side[own_order]]
    index = start[side] + place % size[side].clamp(min=1)
    return order[index.clamp(max=len(other) - 1)].where(size[side] > 0, -1)


def _unfinished(group: Group, whole_images: Tensor, whole_texts: Tensor) -> Group:
    """The group with those ids only that an image or text has whose matches are not all singled out; the others share one."""
    needed = torch.zeros(group.number, dtype=torch.bool, device=group.rows.device)
    needed[group.rows[~whole_images]] = True
    needed[group.columns[~whole_texts]] = True
    number = needed.cumsum(0).where(needed, 0)  # 0 for all ids that nobody asks for
    return Group(group.sign, number[group.rows], number[group.columns], int(needed.sum()) + 1)


def summed_matches(
    features: Tensor, side: Own, other: Own, groups: Sequence[Group], exchange: Exchange
) -> tuple[Tensor, Tensor]:
    """For each row of one side whose matches are not all singled out, the sum of all its matches' features.

    Args:
        features: (B, D) of the other side, of this rank.
        side: the rows that ask.
        other: where `features` stand.
        groups: of `Matches`, turned so that the side that asks is their rows.
        exchange: how the ranks meet.

    Returns:
        int64 (R,), which rows of this rank, and (R, D) in wide precision, with gradient to the features of all ranks.
    """
    rows = (~side.whole).nonzero().squeeze(1)
    sums = features.new_zeros(len(rows), features.shape[1], dtype=wide(features.device))
    for group in groups:
        members = group.columns[other.part]
        asked = (members > 0).nonzero().squeeze(1)
        shape = (group.number - 1, features.shape[1])
        own = sums.new_zeros(shape).index_add(0, members[asked] - 1, features[asked].to(sums.dtype))
        sums = sums + group.sign * exchange.total_of(own)[group.rows[side.part][rows] - 1]  # (G, D) -> (R, D)
    return rows, sums
