"""Text decoders: Transformers that look at an image's tokens and give the log-probability of each token of a caption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.attention_cache import is_plain_attention
from lightning_clip.encoders.steps import Steps, TextDecoderSteps

__all__ = ["MaskedTextDecoder", "TextDecoder", "reversed_rows"]


class _Decoder(nn.Module):
    """Token and position vectors, the image's tokens brought to their width, pre-norm blocks, a tied output layer.

    Args:
        vocab_size: token ids that are predicted.
        context_length: the most tokens of a caption.
        image_width: W_i of the image tower's tokens.
        width: of the Transformer, a multiple of `heads`.
        layers: number of blocks, at least 1.
        heads: of each attention.
    """

    def __init__(self, vocab_size: int, context_length: int, image_width: int, width: int, layers: int, heads: int) -> None:
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise InputError(f"decoder width {width} must be a multiple of heads {heads}, and layers {layers} at least 1")
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.token_embedding = nn.Embedding(vocab_size + 1, width)  # the last stands in the place of what is masked
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.image_norm, self.image_projection = nn.LayerNorm(image_width), nn.Linear(image_width, width)
        self.final_norm, self.output_bias = nn.LayerNorm(width), nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        self._sizes = (width, layers, heads)

    def _blocks(self) -> nn.ModuleList:
        width, layers, heads = self._sizes
        return nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )

    def embedded(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Ids int64 (B, L) of which the first one stands at place `first` -> vectors (B, L, W).

        Raises:
            InputError: more tokens than the context holds.
        """
        last = first + tokens.shape[1]
        if last > self.context_length:
            raise InputError(
                f"captions of {last} tokens exceed the decoder's context_length {self.context_length}: set the "
                "tokenizer's context_length to at most that, or raise the decoder's"
            )
        words: Tensor = self.token_embedding(tokens)  # (B, L) -> (B, L, W)
        return words + self.positional_embedding[first:last]

    def memory(self, image_tokens: Tensor) -> Tensor:
        """The image's tokens (B, P, W_i) -> what captions look at (B, P, W)."""
        found: Tensor = self.image_projection(self.image_norm(image_tokens))  # (B, P, W_i) -> (B, P, W)
        return found

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """What the blocks made of tokens (B, L, W) -> logits (B, L, V)."""
        logits: Tensor = (
            self.final_norm(hidden) @ self.token_embedding.weight[:-1].T + self.output_bias
        )  # (B, L, W) -> (B, L, V)
        return logits


class TextDecoder(_Decoder):
    """A causal decoder, of the caption read forward and, if asked, also backward (VirTex, Desai and Johnson 2021).

    Both directions share token vectors, positions and output layer, and have blocks of their own.

    Args:
        vocab_size: token ids that are predicted.
        context_length: the most tokens of a caption.
        image_width: W_i of the image tower's tokens.
        width: of the Transformer, a multiple of `heads`.
        layers: number of blocks of a direction, at least 1.
        heads: of each attention.
        backward: also reads captions from their end.

    Raises:
        InputError: a width that is not a multiple of heads, or captions that are longer than the context.

    Examples:
        >>> decoder = TextDecoder(100, 16, image_width=24, width=32, layers=1, heads=2)
        >>> tokens = torch.tensor([[1, 7, 5, 2, 0], [1, 5, 2, 0, 0]])
        >>> logs = decoder(torch.randn(2, 9, 24), tokens, tokens > 0)
        >>> logs.shape, (logs == 0).sum(dim=1).tolist()
        (torch.Size([2, 4]), [1, 2])
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        image_width: int,
        *,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        backward: bool = False,
    ) -> None:
        super().__init__(vocab_size, context_length, image_width, width, layers, heads)
        self.blocks = self._blocks()
        self.backward_blocks = self._blocks() if backward else None

    def forward(self, image_tokens: Tensor, tokens: Tensor, mask: Tensor, backward: bool = False) -> Tensor:
        """The log-probability of each token after the first, given the image and the tokens before it.

        Args:
            image_tokens: (B, P, W_i).
            tokens: ids int64 (B, L), padded on the right.
            mask: bool (B, L), True on text.
            backward: read from the end of each caption: the first column is then that of the last token but one.

        Returns:
            (B, L - 1), 0 where the token is padding.
        """
        if backward:
            tokens = reversed_rows(tokens, mask)
        targets = tokens[:, 1:].masked_fill(~mask[:, 1:], -100)  # which cross_entropy passes over
        logits = self.logits(image_tokens, tokens[:, :-1], backward)  # -> (B, L - 1, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def logits(self, image_tokens: Tensor, tokens: Tensor, backward: bool = False) -> Tensor:
        """Logits (B, L, V) of the token that follows each of (B, L).

        Args:
            image_tokens: (B, P, W_i).
            tokens: ids int64 (B, L), in the direction of reading.
            backward: with the blocks of the backward direction.
        """
        hidden, memory = self.embedded(tokens), self.memory(image_tokens)
        length = tokens.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        for block in (self.backward_blocks if backward else self.blocks) or ():
            hidden = block(hidden, memory, tgt_mask=later, tgt_is_causal=True)  # (B, L, W)
        return self.vocabulary_logits(hidden)

    def steps(self, image_tokens: Tensor) -> Steps | None:
        """Writes captions forward, one token after another: ids (R,) -> logits (R, V); None where attention is not torch's own.

        Args:
            image_tokens: of N images (N, P, W_i); R captions are N K, those of an image one after the other.
        """
        blocks: Any = self.blocks
        usual = all(is_plain_attention(part) for block in blocks for part in (block.self_attn, block.multihead_attn))
        return TextDecoderSteps(self, image_tokens) if usual else None


class MaskedTextDecoder(_Decoder):
    """A decoder that predicts masked tokens of a caption from the image and all other tokens (ICMLM, Sariyildiz et al. 2020).

    Args:
        vocab_size: token ids that are predicted.
        context_length: the most tokens of a caption.
        image_width: W_i of the image tower's tokens.
        width: of the Transformer, a multiple of `heads`.
        layers: number of blocks, at least 1.
        heads: of each attention.

    Raises:
        InputError: a width that is not a multiple of heads, or captions that are longer than the context.

    Examples:
        >>> decoder = MaskedTextDecoder(100, 16, image_width=24, width=32, layers=1, heads=2)
        >>> tokens = torch.tensor([[1, 7, 5, 2, 0]])
        >>> logs = decoder(torch.randn(1, 9, 24), tokens, tokens > 0, tokens == 5)
        >>> (logs != 0).tolist()
        [[False, False, True, False, False]]
    """

    def __init__(
        self, vocab_size: int, context_length: int, image_width: int, *, width: int = 256, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__(vocab_size, context_length, image_width, width, layers, heads)
        self.blocks = self._blocks()

    def forward(self, image_tokens: Tensor, tokens: Tensor, mask: Tensor, hidden_places: Tensor) -> Tensor:
        """The log-probability of each token that is hidden, given the image and the tokens that are not.

        Args:
            image_tokens: (B, P, W_i).
            tokens: ids int64 (B, L), padded on the right.
            mask: bool (B, L), True on text.
            hidden_places: bool (B, L), True where the token is masked.

        Returns:
            (B, L), 0 where nothing is masked.
        """
        hidden = self.embedded(tokens.masked_fill(hidden_places, self.vocab_size))
        memory = self.memory(image_tokens)
        for block in self.blocks:
            hidden = block(hidden, memory, tgt_key_padding_mask=~mask)  # (B, L, W)
        logits = self.vocabulary_logits(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = tokens.masked_fill(~hidden_places, -100)
        return -cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def reversed_rows(tokens: Tensor, mask: Tensor) -> Tensor:
    """Each row's text from its end, the padding staying on the right: ids int64 (B, L) and mask bool (B, L) -> (B, L).

    Examples:
        >>> tokens = torch.tensor([[1, 7, 2, 0], [1, 2, 0, 0]])
        >>> reversed_rows(tokens, tokens > 0).tolist()
        [[2, 7, 1, 0], [2, 1, 0, 0]]
    """
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1)
    return tokens.gather(1, torch.where(mask, last - places, places))
