"""`DecodingObjective`: captions predicted by a decoder that looks at the image's tokens; a subclass says which tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import check_known, in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective
from lightning_clip.prompts.classifier import ClassNames, names_of_classes
from lightning_clip.prompts.templates import resolve_templates

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["DecodingObjective", "image_token_width"]

_SETTINGS = ("width", "layers", "heads", "context_length")
_ROWS = 1024  # images times prompts that are scored at a time


class DecodingObjective(Objective):
    """Predicts tokens of the caption from the image tower's tokens. It needs no text tower; its tokenizer is the model's.

    A caption counts by the mean over its predicted tokens, and each caption counts alike. Zero-shot, a class scores the mean
    over its prompts of the prompt's log-likelihood given the image: `length` "mean" divides that by the number of predicted
    tokens, so that long names are not at a disadvantage; "sum" is the likelihood itself.

    Args:
        decoder: settings of the decoder: width, layers, heads, and context_length, which is the tokenizer's unless given.
        length: "mean" or "sum".

    Raises:
        InputError: an unknown setting, an image tower without tokens, or a context shorter than the tokenizer's captions.
    """

    part: str  # name of the decoder in the model

    def __init__(self, decoder: Mapping[str, Any] | None, length: str) -> None:
        super().__init__()
        self.decoder = dict(decoder or {})
        check_known(self.decoder, _SETTINGS, f"objective {self.part!r}: decoder")
        for name, value in self.decoder.items():
            in_range(f"objective {self.part!r}: decoder.{name}", value, 1, whole=True)
        if length not in ("mean", "sum"):
            raise InputError(f"objective {self.part!r}: length {length!r} must be mean or sum")
        self.length, self.scoring_parts = length, frozenset({self.part})
        self._sizes: tuple[int, int] | None = None

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def build_decoder(self, vocab_size: int, context_length: int, image_width: int, **settings: int) -> nn.Module:
        """The decoder."""

    @abstractmethod
    def log_likelihoods(
        self, decoder: Any, image_tokens: Tensor, tokens: Tensor, mask: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The summed log-probability (B,) of each caption's predicted tokens, and their number (B,).

        Args:
            decoder: what `build_decoder` made.
            image_tokens: (B, P, W_i).
            tokens: ids int64 (B, L).
            mask: bool (B, L), True on text.
            keys: int64 (B,), the samples' places, for draws; None for zero-shot scores.
        """

    # -- the seam ---------------------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def reads_tokens(self) -> tuple[str, ...]:
        return ("image",)

    def predicts(self) -> tuple[str, ...]:
        return ("text",)

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        assert tokenizer is not None  # texts are predicted
        context = self.decoder.get("context_length", tokenizer.context_length)
        if context < tokenizer.context_length:
            raise InputError(
                f"objective {self.part!r}: the decoder's context_length {context} is shorter than captions of the tokenizer, "
                f"{tokenizer.context_length} tokens: set tokenizer.context_length to {context}, which cuts longer ones and "
                "keeps their end token, or omit the decoder's"
            )
        self._sizes = tokenizer.vocab_size, context

    def build(self, space: SharedSpace) -> None:
        assert self._sizes is not None  # prepared
        settings = {key: value for key, value in self.decoder.items() if key != "context_length"}
        space.add_module(self.part, self.build_decoder(*self._sizes, image_token_width(space, self.part), **settings))

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        assert batch.tokens is not None and batch.mask is not None
        decoder, given = getattr(space, self.part), output.tokens["image"]
        total, count = self.log_likelihoods(decoder, given, batch.tokens, batch.mask, batch.index)
        return {self.part: -total / count.clamp(min=1)}  # (B,)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"loss": self.mean(output.rows[self.part])}

    def is_given(self, batch: PairBatch) -> bool:
        return super().is_given(batch) and bool(batch.captions) and all(batch.captions)

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer:
        """Images -> scores (B, C): each class the mean over its prompts of their log-likelihood."""
        assert predictor.tokenizer is not None
        patterns = resolve_templates(templates)
        names = names_of_classes(class_names)
        prompts = [[pattern.replace("{}", name) for name in own for pattern in patterns] for own in names]
        rows = predictor.tokenizer([prompt for own in prompts for prompt in own])
        model = predictor.model

        def scores(images: Any) -> Tensor:
            parts = []
            with evaluating(model):
                for pixels in predictor.pixels(images, _ROWS):
                    image_tokens = model.encode_with_tokens("image", pixels)[1]
                    tokens, mask = (part.to(image_tokens.device) for part in rows)  # (P, L)
                    parts.append(self._scores(getattr(model, self.part), image_tokens, tokens, mask))  # (B, P)
            of_prompts = torch.cat(parts)
            of_classes = torch.split(of_prompts, [len(own) for own in prompts], dim=1)
            return torch.stack([own.mean(dim=1) for own in of_classes], dim=1)  # (B, P) -> (B, C)

        return scores

    def _scores(self, decoder: nn.Module, image_tokens: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Images (B, P_i, W_i) and prompts (P, L) -> (B, P), so many prompts at a time as fit."""
        found = []
        size = max(1, _ROWS // len(image_tokens))
        for own, own_mask in zip(torch.split(tokens, size), torch.split(mask, size), strict=True):
            every = image_tokens.repeat_interleave(len(own), dim=0)  # (B P, P_i, W_i)
            repeated, repeated_mask = (part.repeat(len(image_tokens), 1) for part in (own, own_mask))
            total, count = self.log_likelihoods(decoder, every, repeated, repeated_mask, None)  # (B P,)
            score = total / count.clamp(min=1) if self.length == "mean" else total
            found.append(score.view(len(image_tokens), len(own)))
        return torch.cat(found, dim=1)


def image_token_width(space: SharedSpace, part: str) -> int:
    """The width of the image tower's tokens, by a look at those of one black image.

    Args:
        space: with the tower.
        part: who asks, for the error.

    Raises:
        InputError: the tower has no tokens.
    """
    tower: Any = space.tower("image")
    weight = next(tower.parameters())
    image = torch.zeros(1, tower.channels, tower.image_size, tower.image_size, device=weight.device, dtype=weight.dtype)
    try:
        with evaluating(tower):
            tokens: Tensor = tower.forward_tokens(image)
    except InputError as error:
        raise InputError(f"objective {part!r} reads image tokens: {error}. Use a tower that has them, such as a ViT") from None
    if tokens.ndim != 3:
        raise InputError(
            f"objective {part!r} reads the image tower's tokens, but {type(tower).__name__} gives {tuple(tokens.shape)} for an "
            "image instead of (1, L, W): use a tower that has them, such as a ViT"
        )
    return tokens.shape[2]
