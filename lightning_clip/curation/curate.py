"""Curation: from a noisy source to the pairs worth training on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import only_writer
from lightning_clip.curation.balancing import balanced
from lightning_clip.curation.choice_shards import pack_choice, remove_other_choice
from lightning_clip.curation.duplicates import as_items, close_pairs, near_duplicates, repeats
from lightning_clip.curation.entries import Matcher, WordCounts, counts_of, frequent_entries, read_entries
from lightning_clip.curation.executors import Executor, Processes
from lightning_clip.curation.image_stats import FORMAT, Look, Seen, fingerprint
from lightning_clip.curation.settings import Balance, CurationSettings, Duplicates, FrequentEntries
from lightning_clip.data.pack_shards import PackSummary
from lightning_clip.data.shards.addresses import shown
from lightning_clip.data.sources import PairSource

__all__ = ["Curation", "curate", "examples", "source_name"]


@dataclass
class Curation:
    """What stays of N pairs, and why the others do not.

    Attributes:
        source: what was curated.
        reasons: in the order of the steps; the first is "", for pairs that stay.
        reason: number of the reason of each pair, int16 (N,).
        twin: for duplicates the pair they repeat, otherwise -1; int64 (N,).
        score: CLIP score, float32 (N,), NaN where there is none.
        entries: words that were balanced over.
        before, after: pairs that have each entry, int64 (E,).
        units: pieces of work, of which `units_kept` had been done by an earlier run.
        packed: shards that were written.
    """

    source: PairSource
    reasons: list[str]
    reason: np.ndarray
    twin: np.ndarray
    score: np.ndarray
    entries: list[str] = field(default_factory=list)
    before: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    after: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    units: int = 0
    units_kept: int = 0
    packed: PackSummary | None = None

    @property
    def kept(self) -> np.ndarray:
        """Places in the source that stay, int64, rising."""
        return np.flatnonzero(self.reason == 0)

    @property
    def drops(self) -> Counter[str]:
        """Reason -> pairs, in the order of the steps."""
        counts = np.bincount(self.reason, minlength=len(self.reasons)).tolist()
        return Counter({name: count for name, count in zip(self.reasons[1:], counts[1:], strict=True) if count})

    def drop(self, places: np.ndarray, reason: str, twins: np.ndarray | None = None) -> None:
        """Takes pairs out."""
        self.reasons.append(reason)
        self.reason[places] = len(self.reasons) - 1
        if twins is not None:
            self.twin[places] = twins


def curate(settings: CurationSettings, executor: Executor | None = None) -> Curation:
    """Filters, finds duplicates and balances a source; writes the list of what stays and, if asked, shards.

    One pass looks at every pair, in pieces that run in parallel and are stored: an interrupted run goes on, and another
    `best_scores`, `balance.most` or number of differing bits needs no second pass. What follows needs a few numbers of each
    pair. The result does not depend on the executor, the number of workers or the size of the pieces.

    Args:
        settings: what to do.
        executor: where the pieces are worked on; None takes this process.

    Returns:
        Every pair with its reason. In `settings.output` stand kept.npy (places that stay), decisions.npz (reason, score and
        twin of each pair), units/ (may be deleted) and shards/.

    Raises:
        InputError: a wrong setting, nothing in the source, nothing left, or another process that writes there.
    """
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, "output"):
        return _curated(settings, executor or Processes(), folder)


def _curated(settings: CurationSettings, executor: Executor, folder: Path) -> Curation:
    look = _look(settings, executor)
    seen, units, finished = _seen(look, settings, folder, executor)
    source = look.opened()
    result = Curation(source, seen.reasons.tolist(), seen.reason, np.full(len(source), -1, np.int64), seen.score)
    result.units, result.units_kept = units, finished
    if settings.duplicates is not None:
        _drop_known(result, seen, settings, folder, executor)
        _drop_duplicates(result, seen, settings.duplicates)
    if settings.best_scores is not None:
        _drop_low_scores(result, settings.best_scores, look)
    if settings.balance is not None:
        assert look.matcher is not None
        result.entries = look.matcher.entries
        _balance(result, seen, settings.balance)
    if not len(result.kept):
        raise InputError(f"nothing is left of {len(source)} pairs: {dict(result.drops)}. Loosen the first of these.")
    _write(result, settings, folder, executor)
    return result


def _look(settings: CurationSettings, executor: Executor) -> Look:
    duplicates = settings.duplicates
    exact = duplicates is not None and duplicates.exact
    perceptual = duplicates is not None and duplicates.perceptual is not None
    look = Look(settings.data, settings.filters, exact=exact, perceptual=perceptual)
    if not look.opened().random_access or not len(look.opened()):
        raise InputError("the source cannot be curated: it is empty, or a stream that can only be read forward")
    if settings.best_scores is not None and not look.scores:
        raise InputError("best_scores needs the filter score: add {name: score, checkpoint: FILE, least: -1} to filters")
    if settings.balance is not None:
        look.matcher = Matcher(_entries(settings.balance, look, settings.unit, executor))
    return look


def _entries(balance: Balance, look: Look, unit: int, executor: Executor) -> list[str]:
    """The user's entries, or those that the captions themselves hold most often."""
    chosen = balance.entries
    if not isinstance(chosen, FrequentEntries):
        return read_entries(chosen)  # type: ignore[arg-type]  # a mapping has become FrequentEntries
    step = max(1, len(look.opened()) // chosen.captions)

    def count(number: int, start: int, stop: int) -> WordCounts:
        counts = WordCounts()
        for index in range(-(-start // step) * step, stop, step):
            counts.add(look.texts(index))
        return counts

    total = WordCounts()
    for _, counts in executor(count, len(look.opened()), unit, "counting words"):
        total.merge(counts)
    return frequent_entries(total, chosen.most, chosen.min_count, chosen.min_pmi)


def _seen(look: Look, settings: CurationSettings, folder: Path, executor: Executor) -> tuple[Seen, int, int]:
    """What a look at every pair found, units, and how many of these an earlier run had done."""
    source, unit = look.opened(), settings.unit
    entries = look.matcher.entries if look.matcher else None
    data = _plain(settings.data), len(source), look.texts(0)
    place = (
        folder
        / "units"
        / fingerprint(FORMAT, data, list(map(_plain, look.filters)), look.exact, look.perceptual, entries, unit)
    )
    place.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-len(source) // unit))
    paths = [place / f"{number:06d}.npz" for number in numbers]
    missing = [number for number in numbers if not paths[number].exists()]
    for number, found in executor(look, len(source), unit, "looking at pairs", missing):
        found.save(paths[number])
    return Seen.joined([Seen.load(path) for path in paths]), len(numbers), len(numbers) - len(missing)


def _plain(spec: Any) -> Any:
    """What tells a source or a filter from another: a description as it is, of an object its class and public attributes."""
    if isinstance(spec, str | dict):
        return spec
    if isinstance(spec, PairSource):
        return type(spec).__name__
    return type(spec).__name__, {key: value for key, value in vars(spec).items() if not key.startswith("_")}


def _drop_known(result: Curation, seen: Seen, settings: CurationSettings, folder: Path, executor: Executor) -> None:
    """Takes out pictures that other sources, such as test sets, have."""
    duplicates = settings.duplicates
    assert duplicates is not None
    for spec in duplicates.against:
        look = Look(spec, (), exact=duplicates.exact, perceptual=duplicates.perceptual is not None)
        other, _, _ = _seen(look, CurationSettings(spec, unit=settings.unit), folder, executor)
        kept = result.kept
        known = np.zeros(len(kept), dtype=bool)
        if duplicates.exact:
            known |= np.isin(as_items(seen.digest[kept]), as_items(other.digest))
        if duplicates.perceptual is not None:
            known |= _near(other.picture[other.reason == 0], seen.picture[kept], duplicates.perceptual)
        result.drop(kept[known], f"picture of {source_name(spec)}")


def _near(theirs: np.ndarray, ours: np.ndarray, distance: int) -> np.ndarray:
    """Which of ours are within a distance of any of theirs."""
    found = np.isin(as_items(ours), as_items(theirs))
    both = np.concatenate([theirs, ours])
    for first, second in close_pairs(both, distance):
        across = (first < len(theirs)) & (second >= len(theirs))
        found[second[across] - len(theirs)] = True
    return found


def _drop_duplicates(result: Curation, seen: Seen, duplicates: Duplicates) -> None:
    if duplicates.exact:
        kept = result.kept
        _drop_repeats(result, kept, repeats(seen.digest[kept]), "same picture as an earlier one")
    if duplicates.perceptual is not None:
        kept = result.kept
        found = near_duplicates(seen.picture[kept], duplicates.perceptual)
        _drop_repeats(result, kept, found, "nearly the same picture as an earlier one")


def _drop_repeats(result: Curation, kept: np.ndarray, found: np.ndarray, reason: str) -> None:
    gone = found >= 0
    result.drop(kept[gone], reason, kept[found[gone]])


def _drop_low_scores(result: Curation, share: float, look: Look) -> None:
    """Keeps the best; of equal scores the earlier pair."""
    kept = result.kept
    order = kept[np.argsort(-result.score[kept], kind="stable")]
    result.drop(order[round(share * len(order)) :], f"CLIP score not in the best {share:.0%}")


def _balance(result: Curation, seen: Seen, balance: Balance) -> None:
    standing = result.reason == 0
    owners, entries = seen.owners[standing[seen.owners]], seen.entries[standing[seen.owners]]
    result.before = counts_of(owners, entries, standing, len(result.entries))
    matched = np.zeros(len(standing), dtype=bool)
    matched[owners] = True
    chosen = balanced(owners, entries, len(standing), balance.most, balance.method, balance.seed)
    if not balance.unmatched:
        result.drop(np.flatnonzero(standing & ~matched), "no entry in the captions")
    result.drop(np.flatnonzero(standing & matched & ~chosen), f"more than {balance.most:,} pairs of its entries")
    result.after = counts_of(owners, entries, result.reason == 0, len(result.entries))


def _write(result: Curation, settings: CurationSettings, folder: Path, executor: Executor) -> None:
    """Shards first: until they are complete, those of an earlier choice stand with its list."""
    if settings.pairs_per_shard:
        workers = executor.workers if isinstance(executor, Processes) else os.cpu_count() or 1
        result.packed = pack_choice(result.source, result.kept, settings.pairs_per_shard, folder, workers)
    with beside(folder / "kept.npy") as place:
        np.save(place, result.kept)
    with beside(folder / "decisions.npz") as place:
        np.savez(place, reasons=np.array(result.reasons), reason=result.reason, score=result.score, twin=result.twin)
    if not settings.pairs_per_shard:
        remove_other_choice(result.kept, folder)


def source_name(spec: Any) -> str:
    """How a source is called in a report: its last two names, and which of its rows."""
    if isinstance(spec, PairSource):
        return type(spec).__name__
    settings = spec if isinstance(spec, dict) else {"path": spec}
    name = "/".join(shown(str(settings.get("path", settings.get("name")))).split("/")[-2:])
    where = ", ".join(f"{key}={value}" for key, value in (settings.get("where") or {}).items())
    return f"{name} ({where})" if where else name


def examples(result: Curation, reason: str, most: int) -> Sequence[int]:
    """Places of pairs with a reason ("" for kept ones), spread evenly."""
    places = np.flatnonzero(result.reason == result.reasons.index(reason))
    return places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))].tolist()  # type: ignore[no-any-return]
