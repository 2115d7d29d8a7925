"""What a curation does, as it stands in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import check_kinds, check_known, mapping
from lightning_clip.curation.filters.base import Filter

__all__ = ["Balance", "CurationSettings", "Duplicates", "FrequentEntries"]

T = TypeVar("T")


@dataclass(frozen=True)
class FrequentEntries:
    """Entries made of the captions' own words, see `frequent_entries`.

    Args:
        most: entries at most.
        min_count: pairs that have the word, at least.
        min_pmi: of two neighbouring words.
        captions: pairs to count at most, spread evenly over the source.
    """

    most: int = 500_000
    min_count: int = 100
    min_pmi: float = 3.0
    captions: int = 1_000_000


@dataclass(frozen=True)
class Balance:
    """At most so many pairs for each entry.

    Args:
        most: pairs that an entry may bring in (20,000 in CLIP's 400 million pairs; MetaCLIP's t).
        entries: a list, a file, or settings of `FrequentEntries`.
        method: "queries" takes `most` pairs of each entry at random and all that were taken by any (CLIP's construction);
            "chance" keeps a pair with the probability min(1, most / count) of each of its entries (MetaCLIP, algorithm 1).
        unmatched: keep pairs that have no entry.
        seed: of the choice.
    """

    most: int = 20_000
    entries: Sequence[str] | str | Mapping[str, Any] | FrequentEntries = field(default_factory=FrequentEntries)
    method: str = "queries"
    unmatched: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"balance.most {self.most} must be at least 1")
        if self.method not in ("queries", "chance"):
            raise InputError(f"unknown balance.method {self.method!r}: {nearest(self.method, ('queries', 'chance'))}")
        if not isinstance(self.entries, str | FrequentEntries | Mapping):
            for entry in several(self.entries, "balance.entries"):
                if not isinstance(entry, str):
                    raise InputError(f"balance.entries has {entry!r}, which is no text: put it in quotes")
        if isinstance(self.entries, Mapping):
            object.__setattr__(self, "entries", from_mapping(FrequentEntries, self.entries, "balance.entries"))


@dataclass(frozen=True)
class Duplicates:
    """Of pictures that are the same, the first stays.

    Args:
        exact: the same bytes.
        perceptual: largest number of differing bits between 256-bit perceptual hashes, 0 to 31; None does not compare them.
            12 finds re-encoded and resized copies.
        against: sources whose pictures may not occur at all, such as test sets.
    """

    exact: bool = True
    perceptual: int | None = None
    against: Sequence[Any] = ()

    def __post_init__(self) -> None:
        several(self.against, "duplicates.against")
        if self.perceptual is not None and not 0 <= self.perceptual <= 31:
            raise InputError(f"duplicates.perceptual {self.perceptual} must be in 0..31 differing bits, or null")
        if self.against and not self.exact and self.perceptual is None:
            raise InputError(
                "duplicates.against needs duplicates.exact or duplicates.perceptual: say how pictures are compared"
            )


@dataclass(frozen=True)
class CurationSettings:
    """What is done with a source, in this order.

    Args:
        data: the source, as in a recipe's `data` part.
        output: folder for the report, the list of what is kept, and the shards.
        filters: names or mappings; the first that rejects a pair gives the reason.
        duplicates: which pictures count as the same; None compares none.
        best_scores: share in (0, 1] of the pairs with the highest CLIP score; needs the filter `score`.
        balance: see `Balance`; None does not balance.
        pairs_per_shard: of the shards that are written; 0 writes none, only the list.
        unit: pairs that are looked at as one piece of work; an interrupted run repeats no finished unit.
    """

    data: Any
    output: str = "curated"
    filters: Sequence[Any] = ()
    duplicates: Duplicates | None = field(default_factory=Duplicates)
    best_scores: float | None = None
    balance: Balance | None = None
    pairs_per_shard: int = 10_000
    unit: int = 2_000

    def __post_init__(self) -> None:
        for entry in several(self.filters, "filters"):
            if not isinstance(entry, str | Mapping | Filter):
                raise InputError(f"filters has {entry!r}: give the name of a filter, or a mapping with 'name' and its settings")
        if self.best_scores is not None and not 0 < self.best_scores <= 1:
            raise InputError(f"best_scores {self.best_scores} must be a share in (0, 1]")
        if self.unit < 1 or self.pairs_per_shard < 0:
            raise InputError(f"unit {self.unit} must be at least 1, pairs_per_shard {self.pairs_per_shard} at least 0")

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> CurationSettings:
        """Settings from a plain mapping.

        Raises:
            InputError: an unknown or missing key, or a value out of range.
        """
        settings = dict(given)
        if "data" not in settings:
            raise InputError("the curation has no 'data': give the source of pairs")
        for key, kind in (("duplicates", Duplicates), ("balance", Balance)):
            if settings.get(key) is not None:
                settings[key] = from_mapping(kind, mapping(settings[key], key), key)
        if not isinstance(settings["data"], str | Mapping):
            raise InputError(f"data {settings['data']!r} must be a path, a name, or a mapping with 'name'")
        return from_mapping(cls, settings, "the curation")


def several(given: Any, name: str) -> Sequence[Any]:
    """A list of settings as it is; an InputError for anything else."""
    if not isinstance(given, list | tuple):
        raise InputError(f"{name} {given!r} must be a list")
    return given


def from_mapping(kind: type[T], given: Mapping[str, Any], name: str) -> T:
    """A dataclass from a mapping; an unknown key names the nearest."""
    check_known(given, [entry.name for entry in fields(kind)], name)  # type: ignore[arg-type]
    check_kinds(given, get_type_hints(kind), name)
    return kind(**given)
