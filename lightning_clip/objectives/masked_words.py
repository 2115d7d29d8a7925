"""Masked words: words of the caption predicted from the image's tokens and the other words (ICMLM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.settings import in_range
from lightning_clip.encoders.text_decoder import MaskedTextDecoder
from lightning_clip.losses.draws import drawn_places
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.decoding import DecodingObjective

__all__ = ["MaskedWords"]


@objectives.register("masked_words")
class MaskedWords(DecodingObjective):
    """Some tokens M of each caption are hidden: -1/|M| sum over M of log p(x_t | the tokens that are not hidden, I).

    (Sariyildiz et al. 2020.) Which are hidden is drawn for each sample and batch of the run, start and end tokens never, and
    depends on neither ranks nor slices. Zero-shot, each token of a prompt is hidden in turn (Salazar et al. 2020).

    Args:
        share: of a caption's tokens that is hidden, in (0, 1], rounded up.
        decoder: its width (256), layers (2), heads (4), and context_length, the tokenizer's unless given.
        length: zero-shot, a prompt scores the "mean" of its tokens' log-probabilities, or their "sum".

    Raises:
        InputError: as `DecodingObjective`, or a share out of range.

    Examples:
        >>> MaskedWords(share=0.25).predicts()
        ('text',)
    """

    part = "masked_words"

    def __init__(self, share: float = 0.15, decoder: dict[str, Any] | None = None, length: str = "mean") -> None:
        super().__init__(decoder, length)
        in_range("objective 'masked_words': share", share, 0, 1, open_low=True)
        self.share = share

    def build_decoder(self, vocab_size: int, context_length: int, image_width: int, **settings: int) -> nn.Module:
        return MaskedTextDecoder(vocab_size, context_length, image_width, **settings)

    def log_likelihoods(
        self, decoder: Any, image_tokens: Tensor, tokens: Tensor, mask: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        words = words_of(mask)
        if keys is not None:
            hidden = drawn_places(words, self.share, keys, self.batches if self.training else 0)
            return decoder(image_tokens, tokens, mask, hidden).sum(dim=1), hidden.sum(dim=1)  # (B, L) -> (B,)
        total = torch.zeros(len(tokens), device=tokens.device)
        for place in range(1, int(words.sum(dim=1).max()) + 1):
            hidden = torch.zeros_like(words)
            hidden[:, place] = words[:, place]
            total = total + decoder(image_tokens, tokens, mask, hidden).sum(dim=1)
        return total, words.sum(dim=1)


def words_of(mask: Tensor) -> Tensor:
    """The text without its start and end tokens: bool (B, L) -> (B, L)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return mask & (places > 0) & (places < mask.sum(dim=1, keepdim=True) - 1)
