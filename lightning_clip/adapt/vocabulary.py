"""More tokens and longer texts for a text tower that is trained already: a tokenizer arrives, one that has grown leaves."""

from __future__ import annotations

from lightning_clip.adapt.towers import TextAdapt
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.errors import InputError

__all__ = ["grown_tokenizer"]


def grown_tokenizer(tokenizer: Tokenizer, settings: TextAdapt) -> Tokenizer:
    """The tokenizer with new tokens and a longer context; itself if nothing is new. The tower grows with it, see
    `TextEncoder.grow`.

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
