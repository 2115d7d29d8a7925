"""The words and names that captions are balanced over."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["Matcher", "WordCounts", "frequent_entries", "normalised", "read_entries"]

_NO_LETTER = re.compile(r"[^\w]+|_+")
# Scripts written without spaces: an entry in them is found anywhere.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def normalised(text: str) -> str:
    """Lower-case words between single spaces, with one at either end.

    Examples:
        >>> normalised("A Red-ish  T-Shirt!")
        ' a red ish t shirt '
    """
    words = _NO_LETTER.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()
    return f" {words} " if words else " "


def read_entries(given: str | Path | Sequence[str]) -> list[str]:
    """Entries from a list, a text file with one a line, or a JSON list; the same after normalising counts once.

    Raises:
        InputError: no such file, or nothing in it.
    """
    if isinstance(given, str | Path):
        path = existing_path(given, "entries")
        text = path.read_text(encoding="utf-8")
        words: Iterable[Any] = json.loads(text) if path.suffix == ".json" else text.splitlines()
    else:
        words = given
    found = {normalised(str(word)).strip(): None for word in words}
    found.pop("", None)
    if not found:
        raise InputError(f"entries {given!r} hold no word: give one a line, or a JSON list")
    return list(found)


class Matcher:
    """Finds all entries in a text at once (Aho and Corasick 1975), so that 500,000 cost no more than a few.

    Args:
        entries: as `read_entries` gives them. An entry is found as whole words; in scripts without spaces, anywhere.

    Raises:
        InputError: the library is missing.

    Examples:
        >>> Matcher(["red shirt", "shirt", "hat"]).find(["A red shirt.", "Another shirt, in red"])
        [0, 1]
    """

    def __init__(self, entries: Sequence[str]) -> None:
        try:
            import ahocorasick
        except ImportError as error:
            raise InputError('balancing needs pyahocorasick: pip install "lightning-clip[curate]"') from error
        self.entries = list(entries)
        self._automaton = ahocorasick.Automaton()
        for number, entry in enumerate(self.entries):
            start = "" if _UNSPACED.match(entry[0]) else " "
            end = "" if _UNSPACED.match(entry[-1]) else " "
            self._automaton.add_word(f"{start}{entry}{end}", number)
        self._automaton.make_automaton()

    def __reduce__(self) -> tuple[Any, ...]:
        return Matcher, (self.entries,)

    def find(self, texts: Iterable[str]) -> list[int]:
        """Numbers of the entries in any of the texts, each once, rising."""
        return sorted({number for text in texts for _, number in self._automaton.iter(normalised(text))})


class WordCounts:
    """Counts of words and of neighbouring words, in as many pairs as were looked at; the parts of a source add up."""

    def __init__(self) -> None:
        self.pairs = 0
        self.words: Counter[str] = Counter()
        self.couples: Counter[str] = Counter()

    def add(self, captions: Iterable[str]) -> None:
        """Counts a pair; a word that its captions repeat counts once."""
        words: set[str] = set()
        couples: set[str] = set()
        for text in captions:
            own = normalised(text).split()
            words.update(own)
            couples.update(f"{first} {second}" for first, second in pairwise(own))
        self.pairs += 1
        self.words.update(words)
        self.couples.update(couples)

    def merge(self, other: WordCounts) -> None:
        """Adds the counts of another part."""
        self.pairs += other.pairs
        self.words.update(other.words)
        self.couples.update(other.couples)


def frequent_entries(counts: WordCounts, most: int, min_count: int, min_pmi: float) -> list[str]:
    """Frequent words, and neighbours that belong together, most frequent first.

    As CLIP built its 500,000 queries (Radford et al. 2021, section 2.2): words that occur at least 100 times, and bigrams with
    high pointwise mutual information, log p(a b) / (p(a) p(b)).

    Args:
        counts: of the captions.
        most: entries at most.
        min_count: pairs that have the word, at least.
        min_pmi: natural logarithm; 0 is chance, 3 is twenty times as often as by chance.

    Raises:
        InputError: no word is frequent enough.
    """
    found = {word: count for word, count in counts.words.items() if count >= min_count}
    for couple, count in counts.couples.items():
        first, _, second = couple.partition(" ")
        if count >= min_count:
            pmi = math.log(count * counts.pairs / (counts.words[first] * counts.words[second]))
            if pmi >= min_pmi:
                found[couple] = count
    if not found:
        raise InputError(f"no word occurs in {min_count} of {counts.pairs} pairs: lower min_count, or give entries of your own")
    return sorted(found, key=lambda entry: (-found[entry], entry))[:most]


def counts_of(owners: np.ndarray, found: np.ndarray, kept: np.ndarray, entries: int) -> np.ndarray:
    """How many kept pairs have each entry, int64 (entries,).

    Args:
        owners: place of the pair of each match (M,).
        found: entry of each match (M,).
        kept: bool (N,).
        entries: how many there are.
    """
    return np.bincount(found[kept[owners]], minlength=entries).astype(np.int64)
