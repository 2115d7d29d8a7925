"""Prompt learning (CoOp): learned vectors in the place of a prompt's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import Self

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import objectives
from lightning_clip.tasks.class_objective import ClassObjective
from lightning_clip.tasks.learned_prompt import LearnedPrompt, prompt_tokens
from lightning_clip.tasks.supervised import SupervisedModule

__all__ = ["CoopModule", "LearnedPrompts"]

_POSITIONS = ("end", "middle", "front")


@objectives.register("coop")
class LearnedPrompts(ClassObjective):
    """CoOp (Zhou et al. 2022, arXiv 2109.01134): vectors before or around the class name are learned, both towers are frozen.

    The prompt of a class is [V]1 ... [V]M CLASS, or with "middle" [V]1 ... [V]M/2 CLASS [V]M/2+1 ... [V]M. The learned vectors
    pass through the text tower in the place of the vectors of words; the classifier is made of the prompts in every step.

    Args:
        class_names: see `ClassObjective`.
        label_smoothing: see `ClassObjective`.
        context: M, the number of learned vectors, which begin at random; or words such as "a photo of a", whose
            vectors they begin as.
        class_position: where the class name stands, "end", "middle" or "front".
        class_specific: each class learns vectors of its own; otherwise all share them.

    Raises:
        InputError: no context, an unknown position, or prompts longer than the tower takes.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        label_smoothing: float = 0.0,
        context: int | str = 16,
        class_position: str = "end",
        class_specific: bool = False,
    ) -> None:
        super().__init__(class_names, label_smoothing=label_smoothing)
        if class_position not in _POSITIONS:
            raise InputError(f"unknown class_position {class_position!r}: {nearest(class_position, _POSITIONS)}")
        if (isinstance(context, int) and context < 1) or not context:
            raise InputError(f"context {context!r} must be a number of vectors from 1, or words such as 'a photo of a'")
        self.context, self.class_position, self.class_specific = context, class_position, class_specific
        self._tokenizer: Tokenizer | None = None
        self._keeps, self._kept = False, None

    def runs(self) -> tuple[str, ...]:
        return ("image", "text")

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        super().prepare(data, tokenizer)
        self._tokenizer = tokenizer

    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        tokenizer, names = self._tokenizer, self.names
        assert tokenizer is not None
        rows, places = prompt_tokens(tokenizer, names, self.context, self.class_position)
        longest = max(map(len, rows))
        if longest > tokenizer.context_length:
            name = names[max(range(len(rows)), key=lambda row: len(rows[row]))]
            raise InputError(
                f"the prompt of {name!r} has {longest} tokens with its context, more than context_length "
                f"{tokenizer.context_length}: take fewer context vectors or a shorter name"
            )
        with torch.device("cpu"):  # also where the model is built without memory
            tokens, mask = tokenizer.padded(rows)  # (C, L)
            where = torch.tensor(places)  # (C, M)
        table = space.tower("text").token_table()
        return LearnedPrompt(tokens, mask, where, table, self.class_specific, isinstance(self.context, int))

    def classifier(self, space: SharedSpace) -> Tensor:
        """Columns (D, C) of the learned prompts, with gradient to the vectors."""
        prompt: Any = space.classes
        features = prompt(space.tower("text"))  # -> (C, W)
        return normalize(space.head("text")(features), dim=-1).T  # -> (D, C)

    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        if self._keeps and self._kept is None and not self.training:
            self._kept = self.classifier(space).detach()
        columns = self.classifier(space) if self._kept is None else self._kept
        return space.scale() * image_features @ columns  # (B, D) @ (D, C) -> (B, C)

    # -- the classifier is the same for all batches of an evaluation ------------------------------------------------

    def start(self, predictor: Predictor, data: Any | None, split: str) -> None:
        super().start(predictor, data, split)
        self._keeps, self._kept = split != "train", None

    def measured(self) -> Mapping[str, float]:
        self._keeps, self._kept = False, None
        return super().measured()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._keeps, self._kept = False, None
        return super().train(mode)

    _kept: Tensor | None


class CoopModule(SupervisedModule):
    """A `ClipModule` with the objective "coop": learned vectors in the place of a prompt's words.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        class_names: see `LearnedPrompts`.
        label_smoothing: see `LearnedPrompts`.
        context: see `LearnedPrompts`.
        class_position: see `LearnedPrompts`.
        class_specific: see `LearnedPrompts`.
        **arguments: of `ClipModule`.

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
        class_names: Sequence[str] | None = None,
        label_smoothing: float | None = None,
        context: int | str | None = None,
        class_position: str | None = None,
        class_specific: bool | None = None,
        **arguments: Any,
    ) -> None:
        settings = {"class_names": class_names, "label_smoothing": label_smoothing, "context": context}
        settings |= {"class_position": class_position, "class_specific": class_specific}
        arguments["objective"] = self.objective_of("coop", arguments.get("objective"), settings)
        super().__init__(*towers, **arguments)

    def classifier(self) -> Tensor:
        """Columns (D, C) of the learned prompts, with gradient to the vectors."""
        model, learned = self.model, self.classes
        assert isinstance(learned, LearnedPrompts)
        return learned.classifier(model)
