"""Prompt learning: labelled images arrive, a prompt of learned vectors in the place of words leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.adapt.supervised import SupervisedModule
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.errors import InputError, nearest

__all__ = ["CoopModule", "LearnedPrompt", "prompt_tokens"]

_POSITIONS = ("end", "middle")


class CoopModule(SupervisedModule):
    """CoOp (Zhou et al. 2022, arXiv 2109.01134): vectors before or around the class name are learned, both towers rest.

    The prompt of a class is [V]1 ... [V]M CLASS, or with "middle" [V]1 ... [V]M/2 CLASS [V]M/2+1 ... [V]M. The learned vectors
    pass through the text tower in the place of the vectors of words; the classifier is made of the prompts in every step.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        context: M, the number of learned vectors, which begin at random; or words such as "a photo of a", whose
            vectors they begin as.
        class_position: "end" or "middle".
        class_specific: each class learns vectors of its own; otherwise all share them.
        **arguments: of `SupervisedModule` and `ClipModule`.

    Raises:
        InputError: no context, an unknown position, or prompts longer than the tower takes.

    Examples:
        >>> module = CoopModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ...     context="a photo of a",
        ...     class_names=["cat", "dog"],
        ... )
        >>> words = module.encode_text(["a photo of a cat.", "a photo of a dog."]).T
        >>> torch.allclose(module.classifier().detach(), words)
        True
    """

    def __init__(
        self,
        *towers: Any,
        context: int | str = 16,
        class_position: str = "end",
        class_specific: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(*towers, **arguments)
        if class_position not in _POSITIONS:
            raise InputError(f"unknown class_position {class_position!r}: {nearest(class_position, _POSITIONS)}")
        if (isinstance(context, int) and context < 1) or not context:
            raise InputError(f"context {context!r} must be a number of vectors from 1, or words such as 'a photo of a'")
        self.context, self.class_position, self.class_specific = context, class_position, class_specific
        self._kept: Tensor | None = None

    def build_classes(self, num_classes: int) -> nn.Module:
        names = self._names()
        rows, places = prompt_tokens(self.tokenizer, names, self.context, self.class_position)
        longest = max(map(len, rows))
        if longest > self.tokenizer.context_length:
            name = names[max(range(len(rows)), key=lambda row: len(rows[row]))]
            raise InputError(
                f"the prompt of {name!r} has {longest} tokens with its context, more than context_length "
                f"{self.tokenizer.context_length}: take fewer context vectors or a shorter name"
            )
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        table = self.model.text_encoder.token_table()
        return LearnedPrompt(tokens, mask, torch.tensor(places), table, self.class_specific, isinstance(self.context, int))

    def classifier(self) -> Tensor:
        """Columns (D, C) of the learned prompts, with gradient to the vectors."""
        prompt: Any = self._built().classes
        with prompt.in_place_of_words(self.model.text_encoder.token_table()):
            features = self.model.text_encoder(prompt.tokens, prompt.mask)
        return normalize(self.model.text_projection(features), dim=-1).T

    def class_logits(self, image_features: Tensor) -> Tensor:
        columns = self.classifier() if self._kept is None else self._kept
        return self.model.scale() * image_features @ columns

    def on_validation_start(self) -> None:
        self._kept = self.classifier()  # the same for all batches

    def on_validation_end(self) -> None:
        self._kept = None
        super().on_validation_end()

    def on_test_start(self) -> None:
        self._kept = self.classifier()

    def on_test_end(self) -> None:
        self._kept = None

    def to_mapping(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("context", "class_position", "class_specific")}
        return {**super().to_mapping(), **own}


class LearnedPrompt(nn.Module):
    """Tokens of a prompt for each class, some of whose vectors are learned.

    Args:
        tokens: int64 (C, L).
        mask: bool (C, L).
        places: int64 (C, M), where in each row the learned vectors go.
        table: vectors of words.
        class_specific: vectors of its own for each class.
        random: begin at random, as CoOp does (standard deviation 0.02), instead of as the words in `tokens`.
    """

    tokens: Tensor
    mask: Tensor
    places: Tensor

    def __init__(
        self, tokens: Tensor, mask: Tensor, places: Tensor, table: nn.Embedding, class_specific: bool, random: bool
    ) -> None:
        super().__init__()
        for name, value in (("tokens", tokens), ("mask", mask), ("places", places)):
            self.register_buffer(name, value)
        rows = places.shape[0] if class_specific else 1
        words = tokens.gather(1, places)[:rows].to(table.weight.device)
        vectors = table.weight.detach()[words]
        self.vectors = nn.Parameter(torch.randn_like(vectors) * 0.02 if random else vectors.clone())

    @contextmanager
    def in_place_of_words(self, table: nn.Embedding) -> Iterator[None]:
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
        class_position: "end" or "middle".

    Raises:
        InputError: words without a token, or words that the tokenizer cuts off.

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
        if isinstance(context, str) and (whole := body(f"{context} {shown}."))[: len(ids)] == ids:
            after = whole[len(ids) :]  # a tokenizer may read a word after a space in another way
        first = len(start)
        if class_position == "end":
            rows.append([*start, *ids, *after, *end])
            places.append(list(range(first, first + len(ids))))
        else:
            inner, half = body(shown), len(ids) // 2
            rows.append([*start, *ids[:half], *inner, *ids[half:], *body("."), *end])
            late = first + len(inner)
            places.append([*range(first, first + half), *range(late + half, late + len(ids))])
    return rows, places
