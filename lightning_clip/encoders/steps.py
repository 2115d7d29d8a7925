"""Captions token by token: what a text tower or a decoder says of the newest token, given those before it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_clip.encoders.attention_cache import ImageAttention, KeptKeys, OwnAttention, is_plain_attention

__all__ = ["ClipTextSteps", "MultimodalSteps", "OpenClipTextSteps", "Steps", "TextDecoderSteps", "open_clip_text_steps"]


class Steps(Protocol):
    """Writes R captions, each call by one token. It remembers those before, and is used for one batch of images."""

    def __call__(self, new: Tensor, came_from: Tensor | None) -> Tensor:
        """What is said of the newest tokens.

        Args:
            new: of each caption (R, ...); images one after the other have equally many captions each.
            came_from: int64 (R,), the row that each caption had in the last step; None where all kept theirs.
        """
        ...


class ClipTextSteps:
    """`ClipTextTransformer`: ids (R,) -> features of the newest tokens (R, 1, W), after the last norm.

    Args:
        tower: whose blocks are plain.
    """

    def __init__(self, tower: Any) -> None:
        self.tower, self.kept = tower, [KeptKeys() for _ in tower.transformer]
        self.place = 0

    def __call__(self, new: Tensor, came_from: Tensor | None) -> Tensor:
        tower = self.tower
        x = tower.token_embedding(new[:, None]) + tower.positional_embedding[self.place]  # (R,) -> (R, 1, W)
        for block, kept in zip(tower.transformer, self.kept, strict=True):
            qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.num_heads, -1))  # (R, 1, 3, H, D)
            query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))  # 3 x (R, H, 1, D)
            found = kept.attend(query, key, value, came_from).transpose(1, 2).flatten(-2)  # (R, 1, W)
            x = x + block.ls1(block.attn.proj(found))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        self.place += 1
        out: Tensor = tower.final_norm(x)
        return out


class OpenClipTextSteps:
    """open_clip's causal text Transformer: ids (R,) -> features of the newest tokens (R, 1, W).

    CoCa's tower has a class token behind the text, and then its mask hides padding, by which ids of padding inside a text
    (CLIP's "!") hide a key, too: the one after them.

    Args:
        model: open_clip's.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.blocks = [_OpenClipBlock(block) for block in model.transformer.resblocks]
        self.ids: Tensor | None = None

    def __call__(self, new: Tensor, came_from: Tensor | None) -> Tensor:
        model = self.model
        before = self.ids if self.ids is None or came_from is None else self.ids[came_from]
        self.ids = new[:, None] if before is None else torch.cat([before, new[:, None]], dim=1)  # (R, L)
        x = model.token_embedding(new[:, None]) + model.positional_embedding[self.ids.shape[1] - 1]  # (R, 1, W)
        seen = self._seen(self.ids)
        for block in self.blocks:
            x = block(x, came_from, seen)
        out: Tensor = x if model.cls_emb is not None else model.ln_final(x)
        return out

    def _seen(self, ids: Tensor) -> Tensor | None:
        """Which keys the mask admits, bool (R, 1, 1, L)."""
        if self.model.cls_emb is None:
            return None
        text = pad(ids[:, :-1] != self.model.pad_id, (1, 0), value=True)  # (R, L), one place further
        return text[:, None, None]


class MultimodalSteps:
    """`CaptionDecoder`: features of the text tower's newest tokens (R, 1, W_t) -> logits of the next ids (R, V).

    Args:
        decoder: of plain attentions.
        image: what it has read of N images (N, Q, W).
    """

    def __init__(self, decoder: Any, image: Tensor) -> None:
        self.decoder, model = decoder, decoder.model
        self.blocks = [_OpenClipBlock(block) for block in model.resblocks]
        self.looks = [ImageAttention(block.attn, block.ln_1_kv(image)) for block in model.cross_attn]

    def __call__(self, new: Tensor, came_from: Tensor | None) -> Tensor:
        model = self.decoder.model
        x = self.decoder.text_in(new)  # (R, 1, W_t) -> (R, 1, W)
        for own, look, block in zip(self.blocks, self.looks, model.cross_attn, strict=True):
            x = own(x, came_from)
            x = x + block.ls_1(look(block.ln_1(x)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        out: Tensor = (model.ln_final(x) @ model.text_projection)[:, 0]  # (R, 1, W) -> (R, V)
        return out


class TextDecoderSteps:
    """`TextDecoder`, forward: ids (R,) -> logits of the next ids (R, V).

    Args:
        decoder: of plain attentions.
        image_tokens: of N images (N, P, W_i).
    """

    def __init__(self, decoder: Any, image_tokens: Tensor) -> None:
        self.decoder, memory = decoder, decoder.memory(image_tokens)  # (N, P, W_i) -> (N, P, W)
        self.own = [OwnAttention(block.self_attn) for block in decoder.blocks]
        self.looks = [ImageAttention(block.multihead_attn, memory) for block in decoder.blocks]
        self.place = 0

    def __call__(self, new: Tensor, came_from: Tensor | None) -> Tensor:
        x = self.decoder.embedded(new[:, None], self.place)  # (R,) -> (R, 1, W)
        for own, look, block in zip(self.own, self.looks, self.decoder.blocks, strict=True):
            x = x + own(block.norm1(x), came_from)
            x = x + look(block.norm2(x))
            x = x + block.linear2(block.activation(block.linear1(block.norm3(x))))
        self.place += 1
        out: Tensor = self.decoder.vocabulary_logits(x)[:, 0]  # (R, 1, W) -> (R, V)
        return out


class _OpenClipBlock:
    """One of open_clip's residual blocks of self-attention."""

    def __init__(self, block: Any) -> None:
        self.block, self.own = block, OwnAttention(block.attn)

    def __call__(self, x: Tensor, came_from: Tensor | None, seen: Tensor | None = None) -> Tensor:
        x = x + self.block.ls_1(self.own(self.block.ln_1(x), came_from, seen))
        out: Tensor = x + self.block.ls_2(self.block.mlp(self.block.ln_2(x)))
        return out


def open_clip_text_steps(model: Any) -> Steps | None:
    """Steps of open_clip's text tower, or None where it looks ahead or has attention of another kind.

    Args:
        model: open_clip's.
    """
    blocks: list[nn.Module] = list(getattr(getattr(model, "transformer", None), "resblocks", ()))
    usual = all(is_plain_attention(getattr(block, "attn", None)) for block in blocks)
    moved = getattr(model, "correct_cls_mask", False)  # another mask than that of the published weights
    if not blocks or not usual or moved or getattr(model, "attn_mask", None) is None:
        return None
    return OpenClipTextSteps(model)
