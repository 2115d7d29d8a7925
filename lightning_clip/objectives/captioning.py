"""Captioning: the caption predicted token by token from the image's tokens (VirTex; section 2.3 of Radford et al. 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_clip.encoders.text_decoder import TextDecoder
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.decoding import DecodingObjective

__all__ = ["Captioning"]


@objectives.register("captioning")
class Captioning(DecodingObjective):
    """A caption x_1 ... x_n given the tokens of its image I: -1/(n - 1) sum_t log p(x_t | x_1 ... x_(t-1), I).

    With `backward` also from the end, by blocks of their own (Desai and Johnson 2021); the loss is then the mean of both.

    Args:
        decoder: its width (256), layers (2), heads (4), and context_length, the tokenizer's unless given.
        backward: also predict each caption from its end.
        length: zero-shot, a prompt scores the "mean" of its tokens' log-probabilities, or their "sum".

    Raises:
        InputError: as `DecodingObjective`.

    Examples:
        >>> Captioning({"width": 64}, backward=True).reads_tokens()
        ('image',)
    """

    part = "captioning"
    kept_parts = frozenset({"captioning"})  # it writes captions, beside pairs, too

    def __init__(self, decoder: dict[str, Any] | None = None, backward: bool = False, length: str = "mean") -> None:
        super().__init__(decoder, length)
        self.backward = backward

    def build_decoder(self, vocab_size: int, context_length: int, image_width: int, **settings: int) -> nn.Module:
        return TextDecoder(vocab_size, context_length, image_width, backward=self.backward, **settings)

    def log_likelihoods(
        self, decoder: Any, image_tokens: Tensor, tokens: Tensor, mask: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        total = decoder(image_tokens, tokens, mask).sum(dim=1)  # (B, L - 1) -> (B,)
        if self.backward:
            total = (total + decoder(image_tokens, tokens, mask, backward=True).sum(dim=1)) / 2
        return total, mask[:, 1:].sum(dim=1)
