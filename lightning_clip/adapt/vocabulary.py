"""More tokens and longer texts for a text tower that is trained already."""

from __future__ import annotations

from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.adapt.towers import TextAdapt
from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.encoders.base import TextEncoder
from lightning_clip.encoders.new_tokens import add_new_tokens

__all__ = ["grow_tower", "grown_tokenizer"]


def grown_tokenizer(tokenizer: Tokenizer, settings: TextAdapt) -> Tokenizer:
    """The tokenizer with new tokens and a longer context; itself if nothing is new. The tower grows with it, see
    `grow_tower`.

    Raises:
        InputError: a context that is shorter than the tokenizer's, or a tokenizer that cannot grow.

    Examples:
        >>> from lightning_clip.data import ClipTokenizer
        >>> plain = ClipTokenizer(context_length=16)
        >>> grown = grown_tokenizer(plain, TextAdapt(new_tokens=("<sks>",)))
        >>> plain.vocab_size, grown.vocab_size, grown.encode(["a <sks> dog"])
        (49408, 49409, [[49406, 320, 49408, 1929, 49407]])
    """
    length = settings.context_length
    if length is not None and length < tokenizer.context_length:
        raise InputError(
            f"adapt.text.context_length {length} is less than the tokenizer's {tokenizer.context_length}: to cut captions set "
            "the tokenizer's own context_length"
        )
    if not settings.new_tokens and length in (None, tokenizer.context_length):
        return tokenizer
    return tokenizer.grown(settings.new_tokens, length)


def grow_tower(encoder: TextEncoder, before: Tokenizer, after: Tokenizer, settings: AdaptSettings) -> None:
    """Makes a tower read what its tokenizer has learned, in place.

    Args:
        encoder: made for the tokenizer as it was before.
        before: that tokenizer.
        after: the one that has grown.
        settings: whether old tokens are frozen while new ones are learned.

    Raises:
        InputError: a tower that cannot grow, or new tokens that would be frozen because they are not new.
    """
    count = after.vocab_size - before.vocab_size
    asked, text = len(settings.text.new_tokens), settings.text
    if count < asked and (text.lock or text.lora):
        raise InputError(
            f"the tokenizer knows {asked - count} of adapt.text.new_tokens {list(text.new_tokens)} already, and what it knows "
            f"is frozen under {'lock' if text.lock else 'lora'}: omit those, or train the tower"
        )
    apart = count > 0 and settings.tokens_apart
    encoder.grow(before.vocab_size if apart else after.vocab_size, after.context_length)
    if apart:
        add_new_tokens(encoder, before.vocab_size, count)
