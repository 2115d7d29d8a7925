"""Convolutional networks, and Transformers of unknown kinds, as dense views: the map before their pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.attention_pool2d import AttentionPool2d
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from lightning_clip.encoders.dense import DenseView, square_grid
from lightning_clip.encoders.dense_vits import through_pooling

__all__ = ["AttentionPoolMap", "MapView", "TokenView", "hidden_state_view", "open_clip_resnet", "timm_map"]

Features = Callable[[Tensor], Tensor]


class MapView(DenseView):
    """A map of places and what pools it.

    Args:
        features: normalised float pixels (B, 3, S, S) -> a map (B, W, rows, columns).
        head: a map (N, W, rows, columns) of any size -> (N, output_dim).
    """

    def __init__(self, features: Features, head: Features) -> None:
        super().__init__([])
        self.features, self.head = features, head
        self.sides = (1, 1)  # of the map that came last

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> places of the map (B, rows * columns, W)."""
        found = self.features(image)
        self.sides = (found.shape[-2], found.shape[-1])
        return found.flatten(2).transpose(1, 2), *self.sides  # (B, W, r, c) -> (B, r c, W)

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim): each place as a map of its own."""
        features = self.head(tokens.flatten(0, 1)[:, :, None, None])  # (B, L, W) -> (B L, W, 1, 1) -> (B L, W')
        return features.reshape(*tokens.shape[:2], -1)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, output_dim)."""
        return self.head(tokens.transpose(1, 2).reshape(len(tokens), -1, *self.sides))  # (B, L, W) -> (B, W, r, c) -> (B, W')


class AttentionPoolMap(MapView):
    """A map that CLIP's attention pooling reads: a place's features are its value, as in MaskCLIP.

    Args:
        features: normalised float pixels (B, 3, S, S) -> a map (B, W, rows, columns).
        head: a map of the tower's own size -> (N, output_dim).
        positions: rows and columns -> (1 + rows * columns, W), the first of no place.
        value: (..., W) -> (..., output_dim), the value of a place behind the output projection.
    """

    def __init__(
        self, features: Features, head: Features, positions: Callable[[int, int], Tensor], value: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(features, head)
        self.positions, self.value = positions, value

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim)."""
        return self.value(tokens + self.positions(*self.sides)[1:])  # (B, L, W) + (L, W)


def timm_map(model: Any, head: nn.Module | None = None) -> DenseView:
    """A model of timm's that is no plain ViT.

    Args:
        model: with `forward_features` and `forward_head`.
        head: what follows its own head; None for nothing.
    """
    after = head or nn.Identity()
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    pool = next((part for part in model.modules() if isinstance(part, AttentionPool2d)), None)
    if pool is not None:
        return AttentionPoolMap(model.forward_features, lambda x: after(model.forward_head(x)), *_timm_pool(pool, after))
    if hasattr(model, "num_prefix_tokens"):
        return TokenView(model.forward_features, lambda x: after(model.forward_head(x)), int(model.num_prefix_tokens))

    def features(image: Tensor) -> Tensor:
        found: Tensor = model.forward_features(image)
        return found.permute(0, 3, 1, 2) if last else found  # (B, r, c, W) -> (B, W, r, c)

    def pooled(found: Tensor) -> Tensor:
        return after(model.forward_head(found.permute(0, 2, 3, 1) if last else found))  # type: ignore[no-any-return]

    return MapView(features, pooled)


def _timm_pool(pool: AttentionPool2d, after: nn.Module) -> tuple[Any, Any]:
    def positions(rows: int, columns: int) -> Tensor:
        found: Tensor = resample_abs_pos_embed(
            pool.pos_embed.unsqueeze(0), [rows, columns], old_size=list(pool.feat_size), num_prefix_tokens=1
        )[0]
        return found

    def value(x: Tensor) -> Tensor:
        if pool.qkv is None:
            return after(pool.proj(pool.v(x)))  # type: ignore[no-any-return, misc]
        bias = pool.qkv.bias
        own = torch.nn.functional.linear(x, pool.qkv.weight.chunk(3)[2], None if bias is None else bias.chunk(3)[2])
        return after(pool.proj(own))  # type: ignore[no-any-return]

    return positions, value


def open_clip_resnet(model: Any) -> DenseView:
    """open_clip's own ResNet.

    Args:
        model: open_clip's `ModifiedResNet`.
    """
    pool = model.attnpool

    def features(image: Tensor) -> Tensor:
        x = model.stem(image)
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
        return x  # type: ignore[no-any-return]

    return AttentionPoolMap(
        features, pool, lambda rows, columns: pool.positional_embedding, lambda x: pool.c_proj(pool.v_proj(x))
    )


def hidden_state_view(model: Any, pooling: str) -> DenseView:
    """A vision model of transformers whose blocks are of no known kind.

    Args:
        model: of transformers.
        pooling: "pooler", "cls" or "mean".
    """

    def features(image: Tensor) -> Tensor:
        found: Tensor = model(pixel_values=image).last_hidden_state
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found  # (B, W, r, c) -> (B, r c, W)

    def pooled(tokens: Tensor) -> Tensor:
        own = getattr(model, "pooler", None)
        if pooling == "mean" or (pooling == "pooler" and isinstance(own, nn.AdaptiveAvgPool2d)):
            return tokens.mean(dim=1)
        if pooling == "cls" or not isinstance(own, nn.Module):
            return tokens[:, 0]
        return own(tokens)  # type: ignore[no-any-return]

    return TokenView(features, pooled)


class TokenView(DenseView):
    """Tokens of a tower whose blocks are of no known kind.

    Args:
        features: normalised float pixels (B, 3, S, S) -> tokens (B, L, W).
        head: tokens (N, L, W) -> (N, output_dim).
        prefix: tokens that stand for no place; None where only a square grid tells.
    """

    def __init__(self, features: Features, head: Features, prefix: int | None = None) -> None:
        super().__init__([], prefix or 0)
        self.features, self.head, self._given = features, head, prefix

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> tokens (B, L, W)."""
        tokens = self.features(image)
        side, left = square_grid(tokens.shape[1] - (self._given or 0))
        self.prefix = (self._given or 0) + left
        return tokens, side, side

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim)."""
        return through_pooling(tokens, self.prefix, self.head)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, output_dim)."""
        return self.head(tokens)
