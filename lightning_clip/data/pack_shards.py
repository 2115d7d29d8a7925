"""Packing of any source into tar shards, in parallel; each shard is complete or not there at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import only_writer
from lightning_clip.data.parallel import over_ranges
from lightning_clip.data.sources.base import PairSource
from lightning_clip.data.write_shard import Packer, PackOptions, ShardReport

__all__ = ["PackOptions", "PackSummary", "pack_shards"]


@dataclass
class PackSummary:
    """What was written and what was omitted, by reason."""

    shards: list[Path] = field(default_factory=list)
    pairs: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0  # shards that an earlier run had finished


def pack_shards(
    source: PairSource,
    pattern: str,
    pairs_per_shard: int = 10_000,
    *,
    check: bool = False,
    options: PackOptions | None = None,
    workers: int = 1,
) -> PackSummary:
    """Writes a source as WebDataset shards; each appears under its name only when it is complete.

    Shard k holds the pairs k * n to (k + 1) * n of the source, less those that are dropped. Beside each stands
    `SHARD_stats.json`, with the counts as img2dataset has them and every pair that was dropped. Shards that are there already,
    written with the same settings, are kept: an interrupted run goes on where it was.

    Args:
        source: any pair source.
        pattern: of the shard names with one printf number, such as "shards/train-%06d.tar".
        pairs_per_shard: pairs of the source for each shard, at least 1.
        check: decode each image and drop those that do not.
        options: what else to do with each pair.
        workers: processes, at least 1.

    Raises:
        InputError: a pattern without a number, shards of other settings, nothing to write, or another process at the same work.
    """
    try:
        first = Path(pattern % 0)
    except TypeError as error:
        raise InputError(f"shard pattern {pattern!r} needs one number, such as 'train-%06d.tar'") from error
    if pairs_per_shard < 1 or workers < 1:
        raise InputError(f"pairs_per_shard {pairs_per_shard} and workers {workers} must be at least 1")
    options = options or PackOptions(check=check)
    first.parent.mkdir(parents=True, exist_ok=True)
    if not len(source):
        raise InputError("no pair could be packed: the source is empty")
    settings = {**asdict(options), "pairs_per_shard": pairs_per_shard, "samples": len(source), "first": _name(source)}
    with only_writer(first, "shard"):
        return _packed(Packer(source, pattern, options, settings), pairs_per_shard, workers)


def _packed(packer: Packer, pairs_per_shard: int, workers: int) -> PackSummary:
    """Writes what an earlier run has not, and counts all of it."""
    source, pattern = packer.source, packer.pattern
    numbers = range(-(-len(source) // pairs_per_shard))
    done = dict(_finished(pattern, len(numbers), packer.settings))
    if packer.options.dedupe and len(done) * pairs_per_shard < len(source):
        hashes = np.concatenate([part for _, part in over_ranges(packer.hashes, len(source), 1000, workers, "hashing images")])
        packer.repeats = _repeats(hashes)
    summary = PackSummary(kept=len(done))
    todo = [number for number in numbers if number not in done]
    for number, report in over_ranges(packer.write, len(source), pairs_per_shard, workers, "packing", todo):
        done[number] = report
    for number in sorted(done):
        _add(summary, Path(pattern % number), done[number])
    if not summary.pairs:
        raise InputError(f"no pair could be packed: {dict(summary.dropped)}")
    return summary


def _name(source: PairSource) -> str:
    """What tells a source from another of the same length."""
    try:
        return " | ".join(source.captions(0)) or source[0].key
    except (OSError, ValueError, KeyError):
        return ""


def _finished(pattern: str, count: int, settings: dict[str, Any]) -> Iterator[tuple[int, ShardReport]]:
    """Shards of an earlier run with the same settings."""
    for number in range(count):
        path = Path(pattern % number)
        path.with_suffix(".tar.partial").unlink(missing_ok=True)
        stats = ShardReport.path(path)
        if not stats.exists():
            if path.exists():
                raise InputError(f"{str(path)!r} exists already: remove the old shards or choose another name")
            continue
        found = json.loads(stats.read_text(encoding="utf-8"))
        if found.get("settings") != settings:
            raise InputError(
                f"{str(path)!r} exists already, packed from other data or with other settings: remove the old shards or choose "
                "another name"
            )
        report = ShardReport(**{key: value for key, value in found.items() if key in ShardReport.__dataclass_fields__})
        if report.successes == 0 or path.exists():
            yield number, report


def _repeats(hashes: np.ndarray) -> np.ndarray:
    """Which samples repeat an earlier one, bool (N,); those that could not be read have no hash and repeat nothing."""
    repeats = np.ones(len(hashes), dtype=bool)
    repeats[np.unique(hashes, return_index=True)[1]] = False
    repeats[hashes == b""] = False
    return repeats


def _add(summary: PackSummary, path: Path, report: ShardReport) -> None:
    summary.pairs += report.successes
    summary.dropped.update(report.status_dict)
    if report.successes:
        summary.shards.append(path)
        summary.bytes += path.stat().st_size
