"""Prompt learning: labelled images arrive, a prompt of learned vectors in the place of words leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.tasks.learned_prompt import LearnedPrompt, prompt_tokens
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["CoopModule"]

_POSITIONS = ("end", "middle", "front")


class CoopModule(SupervisedModule):
    """CoOp (Zhou et al. 2022, arXiv 2109.01134): vectors before or around the class name are learned, both towers rest.

    The prompt of a class is [V]1 ... [V]M CLASS, or with "middle" [V]1 ... [V]M/2 CLASS [V]M/2+1 ... [V]M. The learned vectors
    pass through the text tower in the place of the vectors of words; the classifier is made of the prompts in every step.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        context: M, the number of learned vectors, which begin at random; or words such as "a photo of a", whose
            vectors they begin as.
        class_position: where the class name stands, "end", "middle" or "front".
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
        table = self.model.tower("text").token_table()
        return LearnedPrompt(tokens, mask, torch.tensor(places), table, self.class_specific, isinstance(self.context, int))

    def classifier(self) -> Tensor:
        """Columns (D, C) of the learned prompts, with gradient to the vectors."""
        prompt: Any = self.model.classes
        features = prompt(self.model.tower("text"))
        return normalize(self.model.head("text")(features), dim=-1).T

    def class_logits(self, image_features: Tensor) -> Tensor:
        columns = self.classifier() if self._kept is None else self._kept
        return self.model.scale() * image_features @ columns

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._keep()

    def on_validation_end(self) -> None:
        self._kept = None
        super().on_validation_end()

    def on_test_start(self) -> None:
        super().on_test_start()
        self._keep()

    def on_test_end(self) -> None:
        self._kept = None

    def _keep(self) -> None:
        """Makes the classifier, which is the same for all batches."""
        self.model()  # a sharded model is to be run as a whole before its parts are
        self._kept = self.classifier()

    def to_mapping(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("context", "class_position", "class_specific")}
        return {**super().to_mapping(), **own}
