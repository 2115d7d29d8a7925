"""Captions that say something else in nearly the same words: the hard negatives of NegCLIP, by rules in any language."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any
from zlib import crc32

__all__ = ["GROUPS", "swapped", "swaps"]

# Words that stand for each other; a recipe may name its own, in any language.
GROUPS: Mapping[str, Sequence[str]] = {
    "colours": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "gray"),
    "counts": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "places": ("left", "right", "top", "bottom"),
    "sizes": ("small", "large", "big", "little", "tall", "short"),
}
# Words as they are written with spaces; of scripts without them each sign.
_WORDS = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W_぀-ヿ㐀-鿿豈-﫿]+(?:['’-][^\W_]+)*")


def swapped(caption: str, groups: Mapping[str, Sequence[str]] = GROUPS) -> str:
    """A caption that differs from another by one change, always the same one.

    Two words of one group change places ("a red cube and a blue ball" -> "a blue cube and a red ball"); where there are no
    two, one gives way to another of its group; without any, two words of the caption change places (Yuksekgonul et al. 2023,
    arXiv 2210.01936, section 4).

    Args:
        caption: of any language; in scripts without spaces signs are exchanged.
        groups: name -> words that stand for each other, lower case.

    Returns:
        The caption as it was if it has no two different words.

    Examples:
        >>> swapped("a red cube and a blue ball")
        'a blue cube and a red ball'
        >>> swapped("wow")
        'wow'
    """
    return swaps(caption, 1, groups)[0]


def swaps(caption: str, count: int, groups: Mapping[str, Sequence[str]] = GROUPS) -> list[str]:
    """Several captions, each of which differs from another by one change, always the same ones.

    First those in which two words of one group change places, in an order drawn for the caption, then those in which one gives
    way to another of its group. Without either, two words of the caption change places.

    Args:
        caption: of any language; in scripts without spaces signs are exchanged.
        count: how many, at least 1.
        groups: name -> words that stand for each other, lower case.

    Returns:
        `count` texts, which repeat where there are fewer changes; the caption as it was if it has no two different words.

    Examples:
        >>> swaps("a red cube left of a blue ball", 3, {"colours": ["red", "blue"], "places": ["left", "right"]})
        ['a blue cube left of a red ball', 'a red cube right of a blue ball', 'a blue cube left of a blue ball']
    """
    draw = random.Random(crc32(caption.encode()))
    found = [(match.start(), match.end(), match.group()) for match in _WORDS.finditer(caption)]
    pairs = [pair for pair in combinations(found, 2) if pair[0][2].lower() != pair[1][2].lower()]
    of = {word: name for name, words in groups.items() for word in words}
    alike = [pair for pair in pairs if of.get(pair[0][2].lower(), 0) == of.get(pair[1][2].lower(), 1)]
    changed = [_exchanged(caption, *pair) for pair in _drawn(draw, alike, count)]
    if len(changed) < count:
        instead = [
            (start, end, word, other)
            for start, end, word in found
            for other in groups.get(of.get(word.lower(), ""), ())
            if other != word.lower()
        ]
        changed += [
            caption[:start] + _cased(other, word) + caption[end:]
            for start, end, word, other in _drawn(draw, instead, count - len(changed))
        ]
    changed = changed or [_exchanged(caption, *pair) for pair in _drawn(draw, pairs, count)] or [caption]
    return (changed * count)[:count]


def _drawn(draw: random.Random, of: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of some things, in the order in which they are drawn."""
    return draw.sample(of, min(count, len(of)))


def _exchanged(caption: str, first: tuple[int, int, str], second: tuple[int, int, str]) -> str:
    """The caption with two of its words in each other's place, each in the case of the place."""
    (start, end, word), (later, last, other) = first, second
    return caption[:start] + _cased(other, word) + caption[end:later] + _cased(word, other) + caption[last:]


def _cased(word: str, like: str) -> str:
    """A word with a capital where another has one, and without where that has none."""
    return word[:1].upper() + word[1:] if like[:1].isupper() else word[:1].lower() + word[1:]
