"""Choices of caption: which text of a pair is shown this time, a function of the pair and a random generator."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.core.types import Pair

__all__ = [
    "ChooseCaption",
    "Clean",
    "Joined",
    "Sentence",
    "Tags",
    "Template",
    "caption_choices",
    "first_caption",
    "random_caption",
]

ChooseCaption = Callable[[Pair, random.Random], str]
caption_choices: Registry[ChooseCaption] = Registry("caption choice")
# A full stop ends a sentence before a space and a capital (or before nothing); Chinese and Japanese ones always do.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9ÄÖÜÀ-Ý])|(?<=[。！？；])|\n+")
_URL = re.compile(r"\b(?:https?://|www\.)\S+")
_SPACES = re.compile(r"\s+")


def random_caption(pair: Pair, rng: random.Random) -> str:
    """One of the captions, as likely as the pair's weights say, or each as likely as the next."""
    if pair.weights is not None:
        return rng.choices(pair.captions, pair.weights)[0]
    return rng.choice(pair.captions)


def first_caption(pair: Pair, rng: random.Random) -> str:
    """The first caption, or an empty text for labelled images without any."""
    return pair.captions[0] if pair.captions else ""


caption_choices.register("random")(lambda: random_caption)
caption_choices.register("first")(lambda: first_caption)


@caption_choices.register("template")
class Template:
    """A sentence made of the class name: for labelled images, such as one folder per class.

    Args:
        templates: sentences with one {}, of which one is drawn.
        column: where in the pair's metadata the name is; None takes "class_name".

    Raises:
        InputError: no template, or one without {}.

    Examples:
        >>> pair = Pair(b"", (), "1", metadata={"class_name": "sea_lion"})
        >>> Template(["a photo of a {}."])(pair, random.Random(0))
        'a photo of a sea lion.'
    """

    def __init__(self, templates: Sequence[str] = ("a photo of a {}.",), column: str | None = None) -> None:
        # The command line's parser reads a lone "{}" as an empty mapping.
        self.templates, self.column = ["{}" if not template and template != "" else template for template in templates], column
        for template in self.templates or [""]:
            if template.count("{}") != 1:
                raise InputError(f"template {template!r} must hold one {{}}, where the class name goes")

    def __call__(self, pair: Pair, rng: random.Random) -> str:
        name = pair.metadata.get(self.column or "class_name")
        if not name:
            raise KeyError("no class name")
        return rng.choice(self.templates).replace("{}", str(name).replace("_", " "))


@caption_choices.register("tags")
class Tags:
    """Tags or hashtags as a caption: all of them in another order each time, or a few drawn (Mahajan et al. 2018 predict them).

    A caption of the pair is split at the separator, or taken as one tag where there are several captions; # and _ are undone.

    Args:
        most: tags in a caption, None for all.
        separator: between the tags in the data.
        joined: between the tags in the caption.
        template: around them, with one {}.

    Raises:
        InputError: a number below 1, or a template without {}.

    Examples:
        >>> Tags(joined=" and ")(Pair(b"", ("#golden_gate",), "1"), random.Random(0))
        'golden gate'
    """

    def __init__(self, most: int | None = None, separator: str = ",", joined: str = ", ", template: str = "{}") -> None:
        if most is not None and most < 1:
            raise InputError(f"most {most} must be at least 1 tag, or None for all")
        if template.count("{}") != 1:
            raise InputError(f"template {template!r} must hold one {{}}, where the tags go")
        self.most, self.separator, self.joined, self.template = most, separator, joined, template

    def __call__(self, pair: Pair, rng: random.Random) -> str:
        parts = (part for caption in pair.captions for part in caption.split(self.separator))
        tags = list(dict.fromkeys(tag for part in parts if (tag := part.strip().lstrip("#").replace("_", " "))))
        drawn = rng.sample(tags, len(tags) if self.most is None else min(self.most, len(tags)))
        if not drawn:
            raise IndexError("no tag")
        return self.template.replace("{}", self.joined.join(drawn))


@caption_choices.register("joined")
class Joined:
    """Several captions of a pair as one text, others in another order each time: descriptions for long contexts.

    Args:
        least: captions in a text, where there are so many.
        most: likewise, None for all. How many it is each time is drawn evenly between the two.
        between: stands between them.

    Raises:
        InputError: a number below 1, or more at least than at most.

    Examples:
        >>> Joined(least=2)(Pair(b"", ("A dog runs.", "A dog runs."), "1"), random.Random(0))
        'A dog runs. A dog runs.'
    """

    def __init__(self, least: int = 1, most: int | None = None, between: str = " ") -> None:
        if least < 1 or (most is not None and most < least):
            raise InputError(
                f"least {least} and most {most} must be numbers of captions: 1 <= least <= most, or most None for all"
            )
        self.least, self.most, self.between = least, most, between

    def __call__(self, pair: Pair, rng: random.Random) -> str:
        count = len(pair.captions)
        if not count:
            raise IndexError("no caption")
        most = min(count, self.most or count)
        return self.between.join(rng.sample(pair.captions, rng.randint(min(self.least, most), most)))


@caption_choices.register("sentence")
class Sentence:
    """One sentence of a long text, each as likely as the next (ConVIRT, Zhang et al. 2020, section 3.3).

    Args:
        shortest: letters of a sentence; shorter ones ("1.", "End.") are passed over.

    Examples:
        >>> report = Pair(b"", ("Heart size is normal. No effusion is seen.",), "1")
        >>> {Sentence()(report, random.Random(seed)) for seed in range(9)} == {"Heart size is normal.", "No effusion is seen."}
        True
    """

    def __init__(self, shortest: int = 4) -> None:
        self.shortest = shortest

    def __call__(self, pair: Pair, rng: random.Random) -> str:
        report = random_caption(pair, rng)
        sentences = [part.strip() for part in _SENTENCE_END.split(report) if len(part.strip()) >= self.shortest]
        return rng.choice(sentences or [report])


@caption_choices.register("clean")
class Clean:
    """Another choice's caption without addresses, entities, odd spaces and broken letters.

    Args:
        choice: what chooses: a name, a mapping or a function.
        lower: also makes letters small.

    Examples:
        >>> Clean("first")(Pair(b"", ("A&amp;B  at http://x.y/z",), "1"), random.Random(0))
        'A&B at'
    """

    def __init__(self, choice: Any = "random", lower: bool = False) -> None:
        self.choice, self.lower = caption_choices.build(choice), lower

    def __call__(self, pair: Pair, rng: random.Random) -> str:
        from ftfy import fix_text

        text = html.unescape(html.unescape(fix_text(self.choice(pair, rng))))  # twice: the web escapes what is escaped
        text = _SPACES.sub(" ", _URL.sub(" ", text)).strip()
        if not text:
            raise IndexError("nothing left of the caption")
        return text.lower() if self.lower else text
