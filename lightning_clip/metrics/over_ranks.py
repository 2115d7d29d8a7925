"""Retrieval whose features are spread over processes, exact, none of which ever holds those of all.

Each process keeps its images and its captions. Blocks of captions go round: where a block passes by, its captions are compared
with the images there, in both directions. They go round twice, first to meet their own images, whose scores all others are
compared with; an image and its captions need not be in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.distributed import agree, gathered, world
from lightning_clip.core.errors import InputError
from lightning_clip.losses.exchange import Gather, Ring
from lightning_clip.metrics.checks import check_features, check_ks, check_pairing, check_shapes
from lightning_clip.metrics.ranking import ImageRows, pair_scores
from lightning_clip.metrics.scores import caption_average_precision, summary

__all__ = ["BLOCK", "SharedRanks", "ranks_over_processes", "retrieval_over_processes", "rows_of_all"]

# Captions that go round at a time: 128 MB of 512 dimensions, and three times that while they do.
BLOCK = 1 << 16


class SharedRanks(NamedTuple):
    """Ranks of this process' own rows among those of all processes, as in `lightning_clip.metrics.ranking.Ranks`.

    Attributes:
        text_to_image: int64 (M,), of each of its captions.
        image_to_text: int64 (N,), of each of its images.
        precision: float64 (), the sum over its images of the average precision of their captions; 0 if not asked for.
    """

    text_to_image: Tensor
    image_to_text: Tensor
    precision: Tensor


class _Shares(NamedTuple):
    """What the processes hold.

    Attributes:
        images: rows of each process.
        texts: likewise.
        rank: this process.
    """

    images: list[int]
    texts: list[int]
    rank: int


def ranks_over_processes(
    image_features: Tensor,
    text_features: Tensor,
    image_index: Tensor,
    text_image_index: Tensor,
    *,
    each_caption: bool = True,
    block: int = BLOCK,
) -> SharedRanks:
    """Exact ranks of what this process holds; every process of the default group must ask. Alone it holds everything.

    Args:
        image_features: (N, D) of this process; N may differ between processes and be 0.
        text_features: (M, D), likewise.
        image_index: integers (N,), numbers of the images, all different over all processes.
        text_image_index: integers (M,), the number of each caption's image, which any process may hold.
        each_caption: False saves ranking captions that are not their image's best, which average precision needs.
        block: captions of each process that go round at a time, at least 1.

    Raises:
        InputError: on every process: shapes that do not fit, no rows at all, values that are not finite, an image given twice
            or without captions, a caption without its image.

    Examples:
        >>> found = ranks_over_processes(
        ...     torch.eye(3), torch.eye(3)[[0, 1, 2, 1]], torch.arange(3), torch.tensor([0, 1, 2, 0])
        ... )
        >>> found.text_to_image.tolist(), found.image_to_text.tolist()
        ([1, 1, 1, 3], [1, 2, 1])
    """
    if block < 1:
        raise InputError(f"block {block} must be at least 1 caption at a time")
    device = image_features.device
    image_index, text_image_index = image_index.to(device, torch.int64), text_image_index.to(device, torch.int64)
    images, texts, shares = _agreed(image_features, text_features.to(device), image_index, text_image_index)
    check_pairing(_of_all(image_index, shares.images, shares.rank), _of_all(text_image_index, shares.texts, shares.rank))
    own, rows = _meet_own(images, texts, image_index, text_image_index, shares, each_caption, block)
    ahead = torch.zeros_like(text_image_index)
    for part, ring in _parts(shares, block):

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], _: int | None) -> None:
            features, numbers, scores = carried
            added[0] += rows.meet(features, _places(numbers, image_index), scores)

        carried = [texts[part], text_image_index[part], own[part]]
        (ahead[part],) = ring.visit(carried, [ahead[part]], body)
    return SharedRanks(1 + ahead, rows.best(), _precision(rows) if each_caption else own.new_zeros((), dtype=torch.float64))


def retrieval_over_processes(
    image_features: Tensor,
    text_features: Tensor,
    image_index: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    with_precision: bool = True,
    block: int = BLOCK,
) -> dict[str, Tensor]:
    """`retrieval_metrics` of what all processes hold together, the same on each, with mean average precision.

    Ranks, 8 bytes a query, are brought together for medians; features are not.

    Args:
        image_features: (N, D) of this process.
        text_features: (M, D).
        image_index: integers (N,), numbers of the images.
        text_image_index: integers (M,), the number of each caption's image.
        ks: cut-offs, at least 1 each.
        with_precision: False saves the time of ".../mean_average_precision".
        block: captions of each process that go round at a time.

    Raises:
        InputError: as `ranks_over_processes`, or a cut-off below 1.

    Examples:
        >>> metrics = retrieval_over_processes(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2), ks=(1,))
        >>> metrics["image_to_text/recall@1"].item(), metrics["text_to_image/mean_average_precision"].item()
        (1.0, 1.0)
    """
    check_ks(ks)
    options = {"each_caption": with_precision, "block": block}
    own = ranks_over_processes(image_features, text_features, image_index, text_image_index, **options)  # type: ignore[arg-type]
    found = {"image_to_text": rows_of_all(own.image_to_text), "text_to_image": rows_of_all(own.text_to_image)}
    precision = rows_of_all(own.precision[None]).sum() / len(found["image_to_text"]) if with_precision else None
    return summary(found, ks, precision)


def rows_of_all(values: Tensor) -> Tensor:
    """What all processes hold (B, ...), in the order of ranks; B may differ, and every process must ask."""
    rank, world_size = world()
    return values if world_size == 1 else _of_all(values, gathered(len(values)), rank)


def _agreed(images: Tensor, texts: Tensor, image_index: Tensor, text_image_index: Tensor) -> tuple[Tensor, Tensor, _Shares]:
    """Features of one type and width on all processes, and how many each holds."""
    sides = (("image", images, image_index), ("text", texts, text_image_index))
    problem = None
    try:
        for side, features, ids in sides:
            (check_features if len(features) else check_shapes)(side, features, ids)
    except InputError as error:
        problem = str(error)
    wide = torch.float64 in (images.dtype, texts.dtype)
    widths = {features.shape[1] for _, features, _ in sides if features.ndim == 2 and len(features)}
    headers = agree(problem, [len(images), len(texts), wide, *sorted(widths)[:2], *[0] * (2 - len(widths))], images.device)
    every = {width for header in headers for width in header[3:] if width}
    if len(every) > 1:
        raise InputError(f"features are {', '.join(map(str, sorted(every)))} wide: both sides must come from one shared space")
    shares = _Shares([header[0] for header in headers], [header[1] for header in headers], world()[0])
    for side, features, ids in sides:
        if not sum(shares.images if side == "image" else shares.texts):
            check_features(side, features, ids)  # which says that there are none
    # Half precision is exact in float32, which every backend sends.
    dtype = torch.float64 if any(header[2] for header in headers) else torch.float32
    (width,) = every
    images, texts = (value.to(dtype) if len(value) else value.new_zeros(0, width, dtype=dtype) for value in (images, texts))
    return images, texts, shares


def _of_all(values: Tensor, sizes: list[int], rank: int) -> Tensor:
    """What all processes hold (B, ...), in the order of ranks."""
    return values if len(sizes) == 1 else Gather(sizes, rank).all_rows(values)


def _parts(shares: _Shares, block: int) -> Iterator[tuple[slice, Ring]]:
    """Captions of this process that go round together, and the ring on which they do; equally many on every process."""
    for start in range(0, max(shares.texts), block):
        sizes = [max(0, min(block, size - start)) for size in shares.texts]
        own = shares.texts[shares.rank]
        yield slice(min(start, own), min(start + block, own)), Ring(sizes, shares.rank)


def _places(numbers: Tensor, image_index: Tensor) -> Tensor:
    """Rows of images by their numbers, int64 (M,), -1 where they are not here."""
    if not len(image_index):
        return torch.full_like(numbers, -1)
    order = image_index.argsort()
    found = order[torch.searchsorted(image_index[order], numbers).clamp(max=len(order) - 1)]
    return torch.where(image_index[found] == numbers, found, -1)


def _meet_own(
    images: Tensor,
    texts: Tensor,
    image_index: Tensor,
    text_image_index: Tensor,
    shares: _Shares,
    each_caption: bool,
    block: int,
) -> tuple[Tensor, ImageRows]:
    """The score of each caption here with its own image (M,), and the images here with the scores of their captions."""
    own = texts.new_zeros(len(texts), dtype=torch.float32)
    scores, owners = [own[:0]], [text_image_index[:0]]
    for part, ring in _parts(shares, block):

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], _: int | None) -> None:
            features, numbers = carried
            places = _places(numbers, image_index)
            here = (places >= 0).nonzero().flatten()
            found = pair_scores(images, features, places[here], here)
            added[0][here] = found  # one process alone has the image, so that the sum over all is this
            scores.append(found)
            owners.append(places[here])

        (own[part],) = ring.visit([texts[part], text_image_index[part]], [own[part]], body)
    return own, ImageRows(images, torch.cat(scores), torch.cat(owners), each_caption)


def _precision(rows: ImageRows) -> Tensor:
    """The sum over images of the average precision of their captions, float64 ()."""
    images, width = rows.captions.shape
    given = (rows.captions >= 0).flatten()
    if not images:
        return rows.thresholds.new_zeros((), dtype=torch.float64)
    owner = torch.arange(images, device=given.device).repeat_interleave(width)[given]
    return images * caption_average_precision((1 + rows.ahead).flatten()[given], owner, images)
