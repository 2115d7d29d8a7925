"""`LeanBlock`: timm's Transformer block, which can compute the one token that is read and keeps less for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from lightning_clip.encoders.packed import Packed, attend_in_groups, attend_to_ends
from lightning_clip.encoders.recomputed import behind_activation, behind_norm, is_plain_linear, untouched
from lightning_clip.encoders.varlen import Strung, attend_each, attend_last

__all__ = ["LeanBlock", "make_lean", "selected", "through"]


def make_lean(model: nn.Module) -> None:
    """Turns all of a model's blocks of timm's class into lean ones, in place; names of weights stay."""
    for layer in model.modules():
        if type(layer) is Block:
            layer.__class__ = LeanBlock


class LeanBlock(Block):  # type: ignore[misc]
    """A pre-norm block x + attention(norm(x)), x + mlp(norm(x)), with timm's parameters and timm's results.

    In the last block of a tower only one token of each sample is read: keys and values are computed of all tokens, but the
    query, the projection and the MLP of that one. The inputs of linear layers behind LayerNorm and GELU are computed again in
    backward. Where a part of the block was replaced or has hooks it is called as timm calls it.

    Examples:
        >>> block = LeanBlock(8, 2)
        >>> x = torch.randn(3, 5, 8)
        >>> torch.testing.assert_close(block(x, read=0), block(x)[:, :1])
    """

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        packed: Packed | Strung | None = None,
        read: int | Tensor | None = None,
    ) -> Tensor:
        """Tokens of samples (B, L, W), or of packed captions (U, W) -> the same shape, or what is read.

        Args:
            x: tokens.
            attn_mask: as in timm.
            is_causal: each token looks at itself and those before it.
            packed: where the tokens of packed captions stand; their attention is causal.
            read: the place of the one token that is computed, one for all samples or int64 (B,), the last that is looked at:
                gives (B, 1, W). Of packed captions any value stands for their last tokens: (B, W).
        """
        masked = attn_mask is not None or is_causal
        if not self.is_plain() or (masked and isinstance(read, int)):
            return selected(super().forward(x, attn_mask=attn_mask, is_causal=is_causal), read)
        attn, mlp = self._layers()
        if read is not None:
            x, hidden = self._read(x, packed, read)
        else:
            hidden = self._attended(x, attn_mask, is_causal, packed)
        x = _added(x, self.drop_path1(self.ls1(attn.proj(hidden))), attn.proj)
        wide = behind_norm(self.norm2, mlp.fc1, x)  # (..., W) -> (..., 4 W)
        return _added(x, self.drop_path2(self.ls2(behind_activation(mlp.act, mlp.fc2, wide))), mlp.fc2)

    def _get_name(self) -> str:
        """A model that is printed shows what it is made of, not how it is computed."""
        return Block.__name__

    def is_plain(self) -> bool:
        """Whether attention and MLP are timm's usual ones, now without dropout, so that their layers are all that there is."""
        attn, mlp = self._layers()
        if not (untouched(attn, Attention) and untouched(mlp, Mlp) and attn.fused_attn):
            return False
        unused = (attn.q_norm, attn.k_norm, attn.norm, mlp.norm)
        drops = (attn.attn_drop, attn.proj_drop, mlp.drop1, mlp.drop2)
        usual = getattr(attn, "gate", None) is None and all(untouched(layer, nn.Identity) for layer in unused)
        return usual and all(untouched(drop, nn.Dropout) and not (drop.training and drop.p) for drop in drops)

    def _layers(self) -> tuple[Any, Any]:
        return self.attn, self.mlp

    def _attended(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool, packed: Packed | Strung | None) -> Tensor:
        """What each token finds, before the projection: (..., W) -> (..., W)."""
        attn, _ = self._layers()
        qkv = behind_norm(self.norm1, attn.qkv, x)  # (..., W) -> (..., 3 W)
        qkv = qkv.view(*x.shape[:-1], 3, attn.num_heads, attn.head_dim)
        if isinstance(packed, Strung):
            return attend_each(qkv, packed).flatten(-2)
        if packed is not None:
            return attend_in_groups(qkv, packed).flatten(-2)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))  # 3 x (B, H, L, D)
        found = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, is_causal=is_causal)
        return found.transpose(1, 2).flatten(-2)  # (B, H, L, D) -> (B, L, W)

    def _read(self, x: Tensor, packed: Packed | Strung | None, read: int | Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that are read and what they find, before the projection: twice (B, W) of packed ones, else (B, 1, W)."""
        attn, _ = self._layers()
        heads, width = (attn.num_heads, attn.head_dim), attn.num_heads * attn.head_dim
        own = selected(x, read) if packed is None else x.index_select(0, packed.ends)
        query = behind_norm(self.norm1, attn.qkv, own, slice(width)).reshape(*own.shape[:-1], *heads)
        key_value = behind_norm(self.norm1, attn.qkv, x, slice(width, None)).reshape(*x.shape[:-1], 2, *heads)
        if packed is not None:
            last = (
                attend_last(query, key_value, packed)
                if isinstance(packed, Strung)
                else attend_to_ends(query, key_value, packed)
            )
            return own, last.flatten(-2)
        seen = None if isinstance(read, int) else _up_to(read, x.shape[1])
        key, value = (part.transpose(1, 2) for part in key_value.unbind(2))  # 2 x (B, H, L, D)
        found = scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=seen)  # (B, H, 1, D)
        return own, found.transpose(1, 2).flatten(-2)  # -> (B, 1, W)


def through(block: nn.Module, x: Tensor, checkpointed: bool, **options: Any) -> Tensor:
    """What a block makes of tokens, its activations kept or computed again in backward."""
    out: Tensor = checkpoint(block, x, use_reentrant=False, **options) if checkpointed else block(x, **options)
    return out


def selected(x: Tensor, read: int | Tensor | None) -> Tensor:
    """The tokens at one place for all samples or at int64 (B,) places, of (B, L, W) -> (B, 1, W); all for None."""
    if read is None:
        return x
    if isinstance(read, int):
        return x[:, read : read + 1]
    rows = torch.arange(x.shape[0], device=x.device)  # len() would fix the size in an export
    return x[rows, read].unsqueeze(1)


def _up_to(last: Tensor, length: int) -> Tensor:
    """Which tokens stand at a place up to that of the last: int64 (B,) -> bool (B, 1, 1, L)."""
    return (torch.arange(length, device=last.device) <= last[:, None])[:, None, None]


def _added(x: Tensor, branch: Tensor, layer: nn.Module) -> Tensor:
    """The sum, in the memory of the branch where that is a linear layer's own output, and no view as in torch 2.11."""
    if torch.compiler.is_compiling():  # which has sums of its own, and cannot tell what is a view
        return x + branch
    own = is_plain_linear(layer) and branch.dtype == x.dtype and not branch._is_view()
    return branch.add_(x) if own else x + branch
