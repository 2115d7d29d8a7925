"""What other libraries ask of a tokenizer: the id that ends every text, and whether it is CLIP's own, which they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.data.tokenizers import Tokenizer, tokenizers

__all__ = ["end_token", "is_clip"]

_PROBES = ["", "a", "A photo of 2 Dogs, on the beach!", "一只狗", "long words " * 200]


def end_token(tokenizer: Tokenizer | Mapping[str, Any]) -> int | None:
    """The id with which each text ends, and which no text holds before; None if there is no such id.

    Examples:
        >>> end_token({"name": "clip"})
        49407
    """
    built = tokenizers.build(tokenizer)
    rows = built.encode(_PROBES)
    ends = {row[-1] if row else -1 for row in rows}
    if len(ends) != 1 or any(row.count(row[-1]) > 1 for row in rows):
        return None
    return ends.pop()


def is_clip(tokenizer: Tokenizer) -> bool:
    """Whether it is CLIP's as open_clip carries it, without words of the user's own.

    Examples:
        >>> is_clip(tokenizers.build("clip")), is_clip(tokenizers.build("clip").grown(["<sks>"]))
        (True, False)
    """
    mapping = tokenizer.to_mapping()
    return mapping["name"] == "clip" and not mapping.get("new_tokens")
