"""Words and tags of captions: how a text is split in any language, and how many texts hold a word."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["common_entries", "inverse_frequencies", "read_synonyms", "tags_in", "words_in"]

# Scripts that put no spaces between words: letter by letter, or whole sentences would be words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['’][^\W_{_UNSPACED}]+)*")


def words_in(text: str) -> list[str]:
    """The words of a text in lower case, in order; scripts without spaces letter by letter.

    Examples:
        >>> words_in("A dog's ball, 一只狗!")
        ['a', "dog's", 'ball', '一', '只', '狗']
    """
    return _WORD.findall(text.lower())


def tags_in(captions: Iterable[str], separator: str = ",", synonyms: Mapping[str, str] | None = None) -> list[str]:
    """The tags of an image, each once: lower case, without # and _, synonyms under one name.

    Args:
        captions: each holds one tag, or several with the separator between them.
        separator: between tags.
        synonyms: tag -> the one that stands for it.

    Examples:
        >>> tags_in(["#Golden_Gate, bridge", "Bridges"], synonyms={"bridges": "bridge"})
        ['golden gate', 'bridge']
    """
    parts = (part.replace("_", " ").lower() for text in captions for part in text.split(separator))
    named = (" ".join(part.split()).lstrip("# ") for part in parts)
    return list(dict.fromkeys((synonyms or {}).get(tag, tag) for tag in named if tag))


def read_synonyms(source: str | Mapping[str, str] | None, separator: str = ",") -> dict[str, str]:
    """Tag -> the tag that stands for it: a mapping as it is, or a file with one group a line, its first tag standing for all.

    Lines that are empty or begin with a % are passed over.

    Raises:
        InputError: no such file, or a tag in two groups.
    """
    if source is None or isinstance(source, Mapping):
        return dict(source or {})
    found: dict[str, str] = {}
    lines = existing_path(Path(source), "file of synonyms").read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        first, *others = tags_in([line], separator) if line.strip() and not line.startswith("%") else [""]
        for tag in others:
            if found.setdefault(tag, first) != first or first in found:
                raise InputError(f"{source}, line {number}: {tag!r} is in two groups of synonyms: put it into one")
    return found


def common_entries(documents: Iterable[Iterable[str]], size: int) -> tuple[Counter[str], int]:
    """The entries that most documents hold, at most `size`, the most frequent first, and the number of documents.

    Each entry counts once in a document; equally frequent ones stand in the order of the alphabet.
    """
    counted, number = Counter[str](), 0
    for document in documents:
        counted.update(set(document))
        number += 1
    ranked = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    return Counter(dict(ranked[:size])), number


def inverse_frequencies(counts: Mapping[str, int], documents: int) -> dict[str, float]:
    """Entry -> log(N / (1 + n)) for n of N documents that hold it, at least 0: what all hold says nothing (Joulin et al. 2016).

    Examples:
        >>> inverse_frequencies({"a": 10, "dog": 1}, 10)
        {'a': 0.0, 'dog': 1.6094379124341003}
    """
    return {entry: max(0.0, math.log(documents / (1 + count))) for entry, count in counts.items()}
