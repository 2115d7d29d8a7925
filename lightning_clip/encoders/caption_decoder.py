"""`CaptionDecoder`: CoCa's multimodal half: text tokens that look at each other and at pooled image tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.attention_cache import is_plain_attention
from lightning_clip.encoders.steps import MultimodalSteps, Steps

__all__ = ["CaptionDecoder"]


class CaptionDecoder(nn.Module):
    """open_clip's `MultimodalTransformer`, with its names of weights, over tokens of any two towers.

    Args:
        vocab_size: V, token ids that are predicted.
        context_length: the most tokens of a caption.
        image_width: of the image's tokens.
        text_width: of the text tower's tokens.
        width: of the Transformer; None takes the text tower's. Tokens of another width pass through a linear layer.
        layers: pairs of blocks: causal attention, then attention over the image.
        heads: of each attention.
        mlp_ratio: width of the blocks' MLP, in widths.
        queries: to which an attentional pooler reduces the image's tokens; 0 where the tower pools itself.
        quick_gelu: activation of OpenAI's weights.

    Raises:
        InputError: heads that do not divide the width.

    Examples:
        >>> import torch
        >>> decoder = CaptionDecoder(100, 16, image_width=24, text_width=32, layers=1, heads=2, queries=4)
        >>> decoder(decoder.read(torch.randn(2, 9, 24)), torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 100])
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        image_width: int,
        text_width: int,
        *,
        width: int | None = None,
        layers: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        queries: int = 0,
        quick_gelu: bool = False,
    ) -> None:
        from open_clip import transformer  # here: open_clip imports all of its models

        super().__init__()
        width = text_width if width is None else width
        if width % heads:
            raise InputError(f"decoder heads {heads} must divide its width {width}")
        self.vocab_size, self.context_length = vocab_size, context_length
        self.pool: Any = transformer.AttentionalPooler(width, image_width, heads, queries) if queries else None
        given = width if queries else image_width
        self.image_in: nn.Module = nn.Identity() if given == width else nn.Linear(given, width)
        self.text_in: nn.Module = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        activation = transformer.QuickGELU if quick_gelu else nn.GELU
        self.model: Any = transformer.MultimodalTransformer(
            width, layers, heads, context_length, mlp_ratio, act_layer=activation, output_dim=vocab_size
        )
        nn.init.normal_(self.model.text_projection, std=width**-0.5)  # which open_clip leaves as the memory is

    def read(self, image_tokens: Tensor) -> Tensor:
        """The image's tokens (B, P, W_i) -> what captions look at (B, Q, W), once for all steps of a caption."""
        found: Tensor = self.image_in(image_tokens if self.pool is None else self.pool(image_tokens))
        return found

    def forward(self, image: Tensor, text_tokens: Tensor) -> Tensor:
        """What was read of images (B, Q, W) and tokens of the text tower (B, L, W_t) -> logits of the next ids (B, L, V)."""
        if text_tokens.shape[1] > self.context_length:
            raise InputError(
                f"captions of {text_tokens.shape[1]} tokens exceed the decoder's context_length {self.context_length}: set the "
                "tokenizer's context_length to at most that"
            )
        logits: Tensor = self.model(image, self.text_in(text_tokens))
        return logits

    def steps(self, image: Tensor) -> Steps | None:
        """Writes captions token by token: the text tower's newest (R, 1, W_t) -> logits (R, V); None without torch's attention.

        Args:
            image: what was read of N images (N, Q, W); R captions are N K, those of an image one after the other.
        """
        blocks = (*self.model.resblocks, *self.model.cross_attn)
        return MultimodalSteps(self, image) if all(is_plain_attention(block.attn) for block in blocks) else None
