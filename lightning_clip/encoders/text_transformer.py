"""CLIP's causal text Transformer, read at the end-of-text token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import QuickGELU
from torch import Tensor, nn
from torch.nn.functional import embedding

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.base import TextEncoder, text_encoders
from lightning_clip.encoders.lean_block import LeanBlock, through
from lightning_clip.encoders.packed import pack
from lightning_clip.encoders.steps import ClipTextSteps, Steps
from lightning_clip.encoders.varlen import Strung, string, usable

__all__ = ["CLIP_TEXT_WIDTHS", "ClipTextTransformer", "at_last_token", "last_text_position"]

# width, layers, heads: `base` and `large` are the paper's towers of B and L, `huge` is open_clip's of H.
CLIP_TEXT_WIDTHS = {
    "clip_text_small": (256, 6, 4),
    "clip_text_base": (512, 12, 8),
    "clip_text_large": (768, 12, 12),
    "clip_text_huge": (1024, 24, 16),
}


@text_encoders.register("clip_text")
class ClipTextTransformer(TextEncoder):
    """The text tower of CLIP (Radford et al. 2021, section 2.4): pre-norm blocks under a causal mask, read at the last token.

    Because attention is causal, padding after the end of text changes nothing: captions may be padded to any length.

    Args:
        width: of the Transformer, a multiple of `heads`.
        layers: number of blocks.
        heads: of each block's attention.
        vocab_size: number of token ids, taken from the tokenizer by `ClipModule`.
        context_length: the most tokens, 77 in the paper.
        quick_gelu: x * sigmoid(1.702 x) as in OpenAI's weights instead of GELU.

    Examples:
        >>> encoder = ClipTextTransformer(width=32, layers=1, heads=2, vocab_size=100)
        >>> encoder(torch.ones(3, 8, dtype=torch.long), torch.ones(3, 8, dtype=torch.bool)).shape
        torch.Size([3, 32])
    """

    vocab_size: int

    def __init__(
        self,
        width: int = 512,
        layers: int = 12,
        *,
        heads: int = 8,
        vocab_size: int = 49408,
        context_length: int = 77,
        quick_gelu: bool = False,
    ) -> None:
        for name, value in (("width", width), ("layers", layers), ("heads", heads)):
            in_range(f"text {name}", value, 1, whole=True)
        if width % heads:
            raise InputError(f"text width {width} is not a multiple of heads {heads}")
        super().__init__(output_dim=width, context_length=context_length)
        self.width, self.layers, self.heads = width, layers, heads
        self.vocab_size, self.quick_gelu = vocab_size, quick_gelu
        self.checkpointed = False
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        activation = QuickGELU if quick_gelu else nn.GELU
        self.transformer = nn.ModuleList(
            LeanBlock(width, heads, qkv_bias=True, act_layer=activation, norm_layer=nn.LayerNorm) for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The initialisation of OpenAI's code: residual branches shrink with depth."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        residual_std = self.width**-0.5 * (2 * self.layers) ** -0.5
        block: Any
        for block in self.transformer:
            nn.init.normal_(block.attn.qkv.weight, std=self.width**-0.5)
            nn.init.normal_(block.attn.proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.fc1.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=residual_std)
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, mask: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> (B, output_dim), at the last token.

        With the captions' lengths, where it `packs`, none of the padding is computed.
        """
        if lengths is not None:
            return self._packed(tokens, lengths)
        hidden = self._through_blocks(self._embedded(tokens), read=last_text_position(mask), is_causal=True)
        features: Tensor = self.final_norm(hidden.squeeze(1))  # (B, 1, W) -> (B, W)
        return features

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L) -> (B, L, W), after the last norm."""
        features: Tensor = self.final_norm(self._through_blocks(self._embedded(tokens), is_causal=True))
        return features

    def forward_both(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        normed = self.forward_tokens(tokens, mask)
        return at_last_token(normed, mask), normed

    def steps(self) -> Steps | None:
        """Where its blocks are as they were built; adapters inside are no hindrance."""
        return ClipTextSteps(self) if self._usual() else None

    def packs(self, tokens: Tensor) -> bool:
        """With blocks as they were built: adapters inside are no hindrance. On a CPU not compiled ones, which would be compiled
        for each batch again; on CUDA in half precision, where there are kernels for it (`lightning_clip.encoders.varlen`).
        """
        blocks: Any = self.transformer
        if not self._usual() or type(tokens) is not Tensor or torch.compiler.is_compiling():
            return False
        if tokens.device.type != "cuda":
            return tokens.device.type == "cpu" and not any(is_compiled(block) for block in blocks)
        return usable(tokens.device, self._multiplied_as(tokens.device), self.width // self.heads)

    def token_table(self) -> nn.Module:
        """The token embedding (vocab_size, width)."""
        return self.token_embedding

    def blocks(self) -> list[nn.Module]:
        """The Transformer's blocks."""
        return list(self.transformer)

    def checkpoint_blocks(self) -> None:
        """Block by block, non-reentrant; cannot fail."""
        self.checkpointed = True

    def grow(self, vocab_size: int, context_length: int) -> None:
        """New tokens begin as the mean of the old ones; new positions repeat the old ones (Longformer, Beltagy et al. 2020)."""
        old = self.token_embedding.weight.detach()
        if vocab_size > len(old):
            new = old.mean(dim=0, keepdim=True).expand(vocab_size - len(old), -1)
            self.token_embedding = nn.Embedding(vocab_size, self.width, _weight=torch.cat([old, new]))
            self.vocab_size = vocab_size
        places = self.positional_embedding.detach()
        if context_length > len(places):
            self.positional_embedding = nn.Parameter(places[torch.arange(context_length) % len(places)])
            self.context_length = context_length

    def to_mapping(self) -> dict[str, Any]:
        """All sizes and the activation."""
        keys = ("width", "layers", "heads", "vocab_size", "context_length", "quick_gelu")
        return {"name": "clip_text", **{key: getattr(self, key) for key in keys}}

    def _usual(self) -> bool:
        """Whether all blocks are as they were built."""
        return all(isinstance(block, LeanBlock) and block.is_plain() for block in self.transformer)

    def _embedded(self, tokens: Tensor) -> Tensor:
        self._check_length(tokens.shape[1])
        words: Tensor = self.token_embedding(tokens)  # (B, L) -> (B, L, W)
        return words + self.positional_embedding[: tokens.shape[1]]

    def _packed(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Features (B, output_dim) from rows of tokens alone."""
        self._check_length(max(lengths))
        if self._strings(tokens):
            return self._strung(string(tokens, lengths, self.context_length), tokens)
        packed = pack(tokens, lengths, share=self._shares())
        words = self.token_embedding(tokens.flatten()[packed.tokens])  # (B, L) -> (U,) -> (U, W)
        hidden = words + embedding(packed.positions, self.positional_embedding)
        hidden = self._through_blocks(hidden, read=packed.ends, packed=packed)  # -> (B, W), sorted by length
        features: Tensor = self.final_norm(hidden)
        return features[packed.back]

    def _strung(self, strung: Strung, tokens: Tensor) -> Tensor:
        """The same, captions in the order of the batch."""
        words = self.token_embedding(tokens.flatten()[strung.tokens])  # (B, L) -> (U,) -> (U, W)
        hidden = words + embedding(strung.positions, self.positional_embedding)
        features: Tensor = self.final_norm(self._through_blocks(hidden, read=strung.ends, packed=strung))  # (B, W)
        return features

    def _strings(self, tokens: Tensor) -> bool:
        """Whether captions are packed for a GPU's kernels."""
        return tokens.device.type == "cuda"

    def _multiplied_as(self, device: torch.device) -> torch.dtype:
        """The type in which linear layers multiply."""
        kind = device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.positional_embedding.dtype

    def _shares(self) -> bool:
        """Whether captions that begin alike may share rows: not where adapters draw dropout, of which each draws its own, and
        not in half precision, in which the gradients of many captions would be added up.
        """
        precise = self.positional_embedding.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        return precise and not (self.training and any(isinstance(layer, nn.Dropout) and layer.p for layer in self.modules()))

    def _through_blocks(self, hidden: Tensor, read: Tensor | None = None, **options: Any) -> Tensor:
        """All tokens, or what is read of them by the last block."""
        for place, block in enumerate(self.transformer):
            if read is not None and place == len(self.transformer) - 1:
                options["read"] = read
            # A frozen tower is in evaluation mode, and may have a gradient to pass on to new tokens or prompts.
            hidden = through(block, hidden, self.checkpointed and (self.training or hidden.requires_grad), **options)
        return hidden

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise InputError(f"tokens of length {length} exceed the text tower's context_length {self.context_length}")


def is_compiled(block: nn.Module) -> bool:
    """Whether `block.compile()` was called."""
    return getattr(block, "_compiled_call_impl", None) is not None


def last_text_position(mask: Tensor) -> Tensor:
    """Where the text of each row ends: (B, L) bool, padded on the right -> (B,) int64.

    Examples:
        >>> last_text_position(torch.tensor([[True, True, False], [True, False, False]]))
        tensor([1, 0])
    """
    return mask.sum(dim=1).clamp(min=1) - 1  # (B, L) -> (B,)


def at_last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """The vector at the end of each row's text: (B, L, W) and mask bool (B, L) -> (B, W)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)  # len() would fix the size in an export
    return hidden[rows, last_text_position(mask)]  # (B, L, W) -> (B, W)


for _name, (_width, _layers, _heads) in CLIP_TEXT_WIDTHS.items():
    text_encoders.register(_name)(partial(ClipTextTransformer, width=_width, layers=_layers, heads=_heads))
