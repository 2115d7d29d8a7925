"""Parts of a batch: each loader worker prepares one of them, and they are joined in order where the batch is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_clip.core.types import PairBatch, Skipped, TeacherFeatures
from lightning_clip.data.batches import PairCollator, PreparedPair, PreparedPairs
from lightning_clip.data.columns import stack_column
from lightning_clip.data.sampler import Visit
from lightning_clip.data.tokenizers import Tokenizer

__all__ = ["Joined", "Part", "PartCollator", "PartSampler", "join", "part_size"]

LEAST = 16  # samples of a part: below, its message costs more than is won


def part_size(dataset: Any, collate: Any, batch_size: int | None, workers: int) -> int | None:
    """Samples of a part, so that a batch keeps all workers busy; None where batches stay whole.

    They do where fewer than two workers would share one, and where something looks at the whole batch in a worker: kept
    features, a tower's own `collate`, a tokenizer that pads in its own way, a stream that is read batch by batch. So
    they do where the device decodes: workers have little to do then.

    Args:
        dataset: of the loader.
        collate: of the loader.
        batch_size: samples of a batch.
        workers: loader processes.
    """
    if not (isinstance(dataset, PreparedPairs) and isinstance(collate, PairCollator) and batch_size and workers > 1):
        return None
    if dataset.features is not None or not dataset.source.random_access or getattr(dataset.transform, "encoded", False):
        return None
    if any(own is not None for own in collate.collators.values()):
        return None
    if collate.text and type(collate.tokenizer).__call__ is not Tokenizer.__call__:
        return None
    parts = min(workers, batch_size // LEAST)
    return -(-batch_size // parts) if parts > 1 else None


class Part:
    """Some rows of a batch on their way from a worker.

    It is no tuple, so that a loader that pins memory hands it on as it is: rows are copied once, into the pinned batch.

    Args:
        rows: collated.
        visits: how many samples these come from, those included that could not be used.
    """

    def __init__(self, rows: PairBatch, visits: int) -> None:
        self.rows, self.visits = rows, visits


class PartCollator(PairCollator):
    """A `PairCollator` of parts; what it collates is what the given one would."""

    def __init__(self, whole: PairCollator) -> None:
        super().__init__(whole.tokenizer, whole.collators, whole.image, whole.text)

    def __call__(self, samples: Sequence[PreparedPair | Skipped]) -> Part:  # type: ignore[override]
        return Part(super().__call__(samples), len(samples))


class PartSampler:
    """Batches of visits, cut into parts.

    Args:
        batches: lists of visits.
        size: of a part; the last of a batch may be shorter.

    Attributes:
        begun: batches of which parts were handed out; whoever joins them takes them from the left.
    """

    def __init__(self, batches: Iterable[list[Visit]], size: int) -> None:
        self.batches, self.size = batches, size
        self.begun: deque[list[Visit]] = deque()

    def __iter__(self) -> Iterator[list[Visit]]:
        self.begun.clear()
        for batch in self.batches:
            self.begun.append(batch)
            for start in range(0, len(batch), self.size):
                yield batch[start : start + self.size]


class Joined(Iterator[PairBatch]):
    """Whole batches from an iterator of parts.

    Args:
        parts: of a loader, in order.
        sampler: what the parts were cut by.
        dataset: gives samples in the place of a batch of which none can be used, as it does for whole batches.
        collate: of these samples.
        pinned: the batches' memory is page-locked, for uploads that do not wait.
    """

    def __init__(
        self, parts: Iterator[Part], sampler: PartSampler, dataset: PreparedPairs, collate: PartCollator, pinned: bool
    ) -> None:
        self.parts, self.sampler, self.dataset, self.collate, self.pinned = parts, sampler, dataset, collate, pinned

    def __next__(self) -> PairBatch:
        found, wanted = [next(self.parts)], len(self.sampler.begun[0])
        while sum(part.visits for part in found) < wanted:
            found.append(next(self.parts))
        visits = self.sampler.begun.popleft()
        rows = [part.rows for part in found]
        if self.dataset.fills and not any(part.size for part in rows):
            rows.append(self.collate(self.dataset.following(visits)).rows)
        return join(rows, getattr(self.collate.tokenizer, "pad_id", 0), self.pinned)


def join(parts: Sequence[PairBatch], pad_id: int = 0, pinned: bool = False) -> PairBatch:
    """Rows of several batches as one batch: what collating all of their samples at once gives.

    Args:
        parts: at least one; shorter captions are padded to the longest.
        pad_id: token to the right of a caption.
        pinned: page-locked memory.

    Raises:
        InputError: values of a column that differ in shape between parts.
    """
    skipped = [sample for part in parts for sample in part.skipped]
    full = [part for part in parts if part.size] or [parts[0]]
    first = full[0]
    images = [part.image for part in full if isinstance(part.image, Tensor)]
    return first._replace(
        image=_joined(images, pinned) if images else first.image,  # P x (b, 3, S, S) -> (B, 3, S, S)
        tokens=_padded([part.tokens for part in full], pad_id, pinned),
        mask=_padded([part.mask for part in full], 0, pinned),
        label=_joined([part.label for part in full], pinned),
        index=_joined([part.index for part in full], pinned),
        captions=[texts for part in full for texts in part.captions],
        keys=[key for part in full for key in part.keys],
        skipped=skipped,
        lengths=None if first.lengths is None else [length for part in full for length in part.lengths or []],
        texts=None if first.texts is None else [text for part in full for text in part.texts or []],
        teachers=_teachers([part.teachers for part in full], pinned),
        columns={name: _column(name, [part.columns[name] for part in full], pinned) for name in first.columns},
    )


def _joined(rows: Sequence[Tensor], pinned: bool) -> Tensor:
    """P x (b, ...) -> (B, ...), in one copy."""
    if not pinned:
        return rows[0] if len(rows) == 1 else torch.cat(list(rows))
    shape = (sum(map(len, rows)), *rows[0].shape[1:])
    return torch.cat(list(rows), out=torch.empty(shape, dtype=rows[0].dtype, pin_memory=True))


def _padded(rows: Sequence[Tensor | None], value: int, pinned: bool) -> Tensor | None:
    """P x (b, l) -> (B, L), L the longest l."""
    known = [part for part in rows if part is not None]
    if not known:
        return None
    longest = max(part.shape[1] for part in known)
    return _joined([pad(part, (0, longest - part.shape[1]), value=value) for part in known], pinned)


def _column(name: str, rows: Sequence[Tensor], pinned: bool) -> Tensor:
    """As `stack_column` has it for all samples at once: of one shape, numbers of two kinds as the wider."""
    kinds = stack_column(name, [part[0] for part in rows])
    return _joined([part.to(kinds.dtype) for part in rows], pinned)


def _teachers(found: Sequence[TeacherFeatures | None], pinned: bool) -> TeacherFeatures | None:
    """As `stacked` has it for all samples at once: None unless all have the same teachers."""
    known = [part for part in found if part is not None]
    kinds = {(*(rows.shape[1] for rows in part.image), *part.scales) for part in known}
    if len(known) < len(found) or len(kinds) != 1:
        return None
    image, text = ([_joined(rows, pinned) for rows in zip(*parts, strict=True)] for parts in _columns_of(known))
    return TeacherFeatures(image, text, known[0].scales)


def _columns_of(known: Sequence[TeacherFeatures]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    return [part.image for part in known], [part.text for part in known]
