"""A prompt with learned vectors in the place of words: class names and a tokenizer arrive, tokens and their vectors leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.encoders.base import TextEncoder

__all__ = ["LearnedPrompt", "prompt_tokens"]


class LearnedPrompt(nn.Module):
    """Tokens of a prompt for each class, some of whose vectors are learned.

    Args:
        tokens: int64 (C, L).
        mask: bool (C, L).
        places: int64 (C, M), where in each row the learned vectors go.
        table: vectors of words, of any module that looks ids up.
        class_specific: vectors of its own for each class.
        random: begin at random, as CoOp does (standard deviation 0.02), instead of as the words in `tokens`.
    """

    tokens: Tensor
    mask: Tensor
    places: Tensor

    def __init__(
        self, tokens: Tensor, mask: Tensor, places: Tensor, table: nn.Module, class_specific: bool, random: bool
    ) -> None:
        super().__init__()
        for name, value in (("tokens", tokens), ("mask", mask), ("places", places)):
            self.register_buffer(name, value)
        rows = places.shape[0] if class_specific else 1
        words = tokens.gather(1, places)[:rows].to(next(table.parameters()).device)
        vectors: Tensor = table(words).detach()
        self.vectors = nn.Parameter(torch.randn_like(vectors) * 0.02 if random else vectors.clone())

    def forward(self, encoder: TextEncoder) -> Tensor:
        """Features (C, W) of the prompts behind a text tower."""
        with self.in_place_of_words(encoder.token_table()):
            features: Tensor = encoder(self.tokens, self.mask)
        return features

    @contextmanager
    def in_place_of_words(self, table: nn.Module) -> Iterator[None]:
        """While it lasts, what the table gives for `tokens` has the learned vectors at their places."""

        def insert(_: nn.Module, __: Any, words: Tensor) -> Tensor:
            vectors = self.vectors.to(words.dtype).expand(len(words), -1, -1)
            return words.scatter(1, self.places[..., None].expand_as(vectors), vectors)

        handle = table.register_forward_hook(insert)
        try:
            yield
        finally:
            handle.remove()


def prompt_tokens(
    tokenizer: Tokenizer, names: Sequence[str], context: int | str, class_position: str = "end"
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of a prompt for each class, and the places of its context among them.

    With words and the class at the end these are the ids of "WORDS NAME." itself; a number of vectors stands there as so many
    padding ids, whose own vectors are never used.

    Args:
        tokenizer: of the text tower.
        names: of the classes.
        context: M, or words.
        class_position: "end", "middle" or "front".

    Returns:
        Rows, longer than the tokenizer's context where the whole prompt does not fit into it; and places.

    Raises:
        InputError: words without a token.

    Examples:
        >>> from lightning_clip.data import ClipTokenizer
        >>> prompt_tokens(ClipTokenizer(), ["cat"], "a photo of a")
        ([[49406, 320, 1125, 539, 320, 2368, 269, 49407]], [[1, 2, 3, 4]])
    """
    (empty, full_stop) = tokenizer.encode(["", "."])
    start = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(empty, full_stop, strict=False))]
    end = empty[len(start) :]

    def body(text: str) -> list[int]:
        ids = tokenizer.encode([text])[0][len(start) :]
        return ids[: len(ids) - len(end)] if end else ids

    ids = [tokenizer.pad_id] * context if isinstance(context, int) else body(context)
    if not ids:
        raise InputError(f"context {context!r} has no token: give words, or a number of vectors")
    rows, places = [], []
    for name in names:
        shown = name.replace("_", " ")
        after = body(f"{shown}.")
        if isinstance(context, str):  # a tokenizer may read a word after a space in another way
            joined = body(f"{context} {shown}.")
            full = len(start) + len(joined) + len(end) >= tokenizer.context_length  # the name may be cut off
            if not full and joined[: len(ids)] == ids:
                after = joined[len(ids) :]
        first = len(start)
        if class_position == "end":
            rows.append([*start, *ids, *after, *end])
            places.append(list(range(first, first + len(ids))))
        else:
            inner, half = body(shown), len(ids) // 2 if class_position == "middle" else 0
            rows.append([*start, *ids[:half], *inner, *ids[half:], *body("."), *end])
            late = first + len(inner)
            places.append([*range(first, first + half), *range(late + half, late + len(ids))])
    return rows, places
