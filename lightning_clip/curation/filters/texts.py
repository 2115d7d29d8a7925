"""Filters by the captions; a pair stays if any of its captions passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.curation.filters.base import Filter, Looked, pair_filters

__all__ = ["CaptionLength", "Language"]


@pair_filters.register("caption_length")
class CaptionLength(Filter):
    """Pairs of which some caption has so many words and characters.

    Args:
        min_words: words between spaces.
        max_words: likewise.
        min_characters: the measure for scripts without spaces.
        max_characters: likewise.
    """

    needs_pixels = False

    def __init__(
        self, min_words: int = 1, max_words: int = 1_000, min_characters: int = 1, max_characters: int = 10_000
    ) -> None:
        if min_words > max_words or min_characters > max_characters:
            raise InputError(
                f"filter caption_length lets nothing through: {min_words}..{max_words} words, "
                f"{min_characters}..{max_characters} characters. The first number may not exceed the second."
            )
        self.min_words, self.max_words = min_words, max_words
        self.min_characters, self.max_characters = min_characters, max_characters
        self.reason = "caption too short or too long"

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        return [any(self._fits(text) for text in sample.captions) for sample in samples]

    def _fits(self, text: str) -> bool:
        words, characters = len(text.split()), len(text)
        return self.min_words <= words <= self.max_words and self.min_characters <= characters <= self.max_characters


@pair_filters.register("language")
class Language(Filter):
    """Pairs of which some caption is in one of these languages, by py3langid (its model is in the package).

    Args:
        languages: ISO 639 codes to keep, such as ["en", "zh"].
        among: other languages that the data may be in; the fewer, the fewer mistakes with short captions. None: all it knows.

    Raises:
        InputError: an unknown code, or the library is missing.
    """

    needs_pixels = False

    def __init__(self, languages: Sequence[str], among: Sequence[str] | None = None) -> None:
        self.languages = [languages] if isinstance(languages, str) else list(languages)
        self.among = None if among is None else list(among)
        self.reason = f"language is not {' or '.join(self.languages)}"
        known = {code for code, _ in _library().rank("a")}
        for code in [*self.languages, *(self.among or ())]:
            if code not in known:
                raise InputError(f"filter language does not know {code!r}: {nearest(code, known)}")

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        library = _library()
        library.set_languages(None if self.among is None else sorted({*self.among, *self.languages}))
        try:
            return [any(library.classify(text)[0] in self.languages for text in sample.captions) for sample in samples]
        finally:
            library.set_languages(None)  # the library holds one state for the whole process


def _library() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise InputError('filter language needs py3langid: pip install "lightning-clip[curate]"') from error
    return py3langid
