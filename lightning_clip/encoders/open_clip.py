"""open_clip's towers that nothing else here holds exactly: its own modules, built from their settings and wrapped.

CLIP's own towers are `TimmImageEncoder` and `ClipTextTransformer`; these are for the others (CoCa's and SigLIP's text towers,
attention pooling, layer scale, ...). The last matrix of a tower, which maps into the shared space, is taken off: it is the
projection of `ClipModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.base import ImageEncoder, TextEncoder, image_encoders, text_encoders
from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.dense_maps import open_clip_resnet
from lightning_clip.encoders.dense_vits import OpenClipVit
from lightning_clip.encoders.padding import checked_side, filled, side_mapping, text_in_front
from lightning_clip.encoders.steps import Steps, open_clip_text_steps
from lightning_clip.encoders.timm_image import timm_view, tokens_of

__all__ = ["OpenClipImageEncoder", "OpenClipTextEncoder"]


@image_encoders.register("open_clip")
class OpenClipImageEncoder(ImageEncoder):
    """An image tower of open_clip.

    Args:
        embed_dim: open_clip's, the width of the shared space.
        config: open_clip's `vision_cfg` as a mapping.
        quick_gelu: open_clip's.

    Raises:
        InputError: settings that open_clip does not take.

    Examples:
        >>> import torch
        >>> tiny = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32, "attentional_pool": True}
        >>> OpenClipImageEncoder(64, tiny)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, embed_dim: int, config: Mapping[str, Any], quick_gelu: bool = False) -> None:
        visual = _build("_build_vision_tower", embed_dim, config, quick_gelu)
        width = embed_dim
        if isinstance(getattr(visual, "proj", None), Tensor):
            width, visual.proj = len(visual.proj), None
        size = visual.image_size
        super().__init__(output_dim=width, image_size=int(size[0] if isinstance(size, tuple | list) else size))
        self.embed_dim, self.config, self.quick_gelu = embed_dim, dict(config), quick_gelu
        self.model = visual

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, output_dim)."""
        output = self.model(image)  # (B, 3, S, S) -> (B, W), or that beside tokens (B, L, W')
        features: Tensor = output[0] if isinstance(output, tuple) else output
        return features

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, L, W), where open_clip's tower has tokens."""
        if self._trunk is not None:
            return tokens_of(self._trunk.forward_features(image))
        return self.forward_both(image)[1]

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, S, S) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        model: Any = self.model
        if self._trunk is not None:
            hidden = self._trunk.forward_features(image)  # (B, 3, S, S) -> (B, L, W') or a map (B, W', rows, columns)
            return model.head(self._trunk.forward_head(hidden)), tokens_of(hidden)
        if not hasattr(model, "output_tokens"):  # open_clip's ResNets
            raise self._no_tokens()
        features, tokens = model(image)
        return features, tokens

    def dense_view(self) -> DenseView:
        """Its own ViT block by block, timm's inside of it too; a ResNet's map."""
        model: Any = self.model
        if self._trunk is not None:
            return timm_view(self._trunk, model.head)
        return OpenClipVit(model) if hasattr(model, "transformer") else open_clip_resnet(model)

    def blocks(self) -> list[nn.Module]:
        """The Transformer's blocks, a ResNet's stages, or those of timm's model inside."""
        model: Any = self.model
        if hasattr(model, "transformer"):
            return list(model.transformer.resblocks)
        trunk = model if self._trunk is None else self._trunk
        layers = getattr(trunk, "blocks", None) or getattr(trunk, "stages", None)
        return list(layers) if layers is not None else [part for name, part in trunk.named_children() if "layer" in name]

    def checkpoint_blocks(self) -> None:
        """By open_clip's own checkpointing."""
        self.model.set_grad_checkpointing(True)

    def to_mapping(self) -> dict[str, Any]:
        """open_clip's settings."""
        settings = {"embed_dim": self.embed_dim, "config": self.config, "quick_gelu": self.quick_gelu}
        return {"name": "open_clip", **settings}

    @property
    def _trunk(self) -> Any:
        """Timm's model inside of open_clip's, or None."""
        return getattr(self.model, "trunk", None)


@text_encoders.register("open_clip")
class OpenClipTextEncoder(TextEncoder):
    """A text tower of open_clip.

    Args:
        embed_dim: open_clip's, the width of the shared space.
        config: open_clip's `text_cfg` as a mapping.
        quick_gelu: open_clip's.
        pad_id: of the tokenizer: captions are padded with it to the full length, which some towers feel.
        padding_side: where that padding is, "right" or "left".

    Raises:
        InputError: settings that open_clip does not take.

    Examples:
        >>> import torch
        >>> tiny = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 100, "context_length": 8, "no_causal_mask": True,
        ...         "pool_type": "last"}
        >>> OpenClipTextEncoder(16, tiny)(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        embed_dim: int,
        config: Mapping[str, Any],
        quick_gelu: bool = False,
        pad_id: int = 0,
        padding_side: str = "right",
    ) -> None:
        text = _build("_build_text_tower", embed_dim, config, quick_gelu)
        text.text_projection = None
        super().__init__(output_dim=int(text.width), context_length=int(text.context_length))
        self.embed_dim, self.config, self.quick_gelu, self.pad_id = embed_dim, dict(config), quick_gelu, pad_id
        self.padding_side = checked_side(padding_side)
        self.vocab_size = int(text.vocab_size)
        self.model = text

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> (B, output_dim); padded to the context length."""
        output = self.model(self._padded(tokens, mask))  # (B, context_length) -> (B, W), or that beside tokens
        features: Tensor = output[0] if isinstance(output, tuple) else output
        return features

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L) -> (B, L, W), those of the padding cut off."""
        return self.forward_both(tokens, mask)[1]

    def forward_both(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        features, hidden = self.model(self._padded(tokens, mask))  # (B, context_length) -> (B, W), (B, context_length, W)
        hidden = text_in_front(hidden, mask, self.padding_side)
        return features, hidden[:, : tokens.shape[1]]  # (B, context_length, W) -> (B, L, W)

    def blocks(self) -> list[nn.Module]:
        """The Transformer's blocks."""
        model: Any = self.model
        return list(model.transformer.resblocks)

    def checkpoint_blocks(self) -> None:
        """By open_clip's own checkpointing."""
        self.model.set_grad_checkpointing(True)

    def to_mapping(self) -> dict[str, Any]:
        """open_clip's settings."""
        settings = {"embed_dim": self.embed_dim, "config": self.config, "quick_gelu": self.quick_gelu, "pad_id": self.pad_id}
        return {"name": "open_clip", **settings, **side_mapping(self.padding_side)}

    def steps(self) -> Steps | None:
        """Where the tower is causal and its attention torch's."""
        return open_clip_text_steps(self.model) if self.padding_side == "right" else None

    def _padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if tokens.shape[1] > self.context_length:
            raise InputError(f"tokens of length {tokens.shape[1]} exceed the text tower's context_length {self.context_length}")
        return filled(tokens, mask, self.context_length, self.pad_id, self.padding_side)  # (B, L) -> (B, context_length)


def _build(function: str, embed_dim: int, config: Mapping[str, Any], quick_gelu: bool) -> Any:
    from open_clip import model  # here: open_clip imports all of its models

    try:
        tower = getattr(model, function)(embed_dim, dict(config), quick_gelu)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise InputError(f"open_clip does not build a tower from {dict(config)!r}: {error}") from error
    if hasattr(tower, "output_tokens"):
        tower.output_tokens = True  # always, as they cost nothing: a flag set for a call would be seen by other threads
    return tower
