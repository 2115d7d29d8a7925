"""`SharedSpace`: towers and heads by name and one temperature; columns in, unit features of one space out. Plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize
from typing_extensions import Self

from lightning_clip.core.errors import InputError
from lightning_clip.core.patches import is_packed, unpack
from lightning_clip.core.types import ClipOutput, KeptFeatures, Tokens
from lightning_clip.encoders import ImageEncoder, TextEncoder
from lightning_clip.encoders.base import Tower
from lightning_clip.encoders.chunks import encode_in_chunks, text_lengths
from lightning_clip.encoders.dense import TokenGrid, dense_tokens
from lightning_clip.encoders.dense_methods import DenseMethod
from lightning_clip.encoders.naflex import NaflexImageEncoder
from lightning_clip.encoders.padding import right_padded

__all__ = ["CLIP_MEAN", "CLIP_STD", "SharedSpace"]

# Of CLIP's training images, per channel, for pixels in [0, 1] (openai/CLIP).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class SharedSpace(nn.Module):
    """Any number of towers with a head each, in one space of D dimensions, with one learned temperature.

    The tower of column "image" stands in `image_encoder` and its head in `image_projection`, and so for every column, so that
    weights of two towers have the names they always had.

    Args:
        towers: column -> tower.
        heads: column -> projection (B, W) -> (B, D), for the same columns.
        embed_dim: width D of the shared space.
        share: further columns -> the column whose tower and head they use, such as {"view2": "image"}.
        initial_scale: inverse temperature at the start.
        initial_bias: start of a learned logit bias, or None for no bias.
        mean: of image towers, per channel, for pixels in [0, 1].
        std: likewise.

    Raises:
        InputError: a column that shares the tower of one that has none.
    """

    # By their usual names, where there are such towers.
    image_encoder: Any
    text_encoder: Any
    image_projection: Any
    text_projection: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        towers: Mapping[str, Tower],
        heads: Mapping[str, nn.Module],
        *,
        embed_dim: int,
        share: Mapping[str, str] | None = None,
        initial_scale: float = 1 / 0.07,
        initial_bias: float | None = None,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.keeps_precision = True  # a strategy may keep precise copies itself
        self.pad_id = 0  # of token ids without a mask: CLIP's, until a tokenizer is known
        self.text_chunks = 4
        self.channels_last = False
        self.own_columns, self.share = tuple(towers), dict(share or {})
        for column, owner in self.share.items():
            if owner not in towers:
                raise InputError(f"column {column!r} shares the tower of {owner!r}, which has none: towers are {list(towers)}")
        for column, tower in towers.items():
            self.add_module(f"{column}_encoder", tower)
        for column in towers:
            self.add_module(f"{column}_projection", heads[column])
        # Where half precision is the default, as under "bf16-true", a step of the temperature would be lost in its rounding.
        precise = torch.promote_types(torch.get_default_dtype(), torch.float32)
        # Shape (1,) because sharding strategies cannot split a 0-d parameter.
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(initial_scale), dtype=precise))
        self.logit_bias = None if initial_bias is None else nn.Parameter(torch.full((1,), float(initial_bias), dtype=precise))
        if any(isinstance(tower, ImageEncoder) for tower in towers.values()):
            self.register_buffer("mean", torch.tensor(mean, dtype=precise).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, dtype=precise).view(1, -1, 1, 1))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns it reads, those that share a tower last."""
        return (*self.own_columns, *self.share)

    def tower(self, column: str) -> Any:
        """The encoder that reads a column.

        Raises:
            InputError: no tower reads it.
        """
        if column not in self.columns:
            raise InputError(f"no tower reads column {column!r}: those that were built read {', '.join(self.columns)}")
        return getattr(self, f"{self.share.get(column, column)}_encoder")

    def head(self, column: str) -> nn.Module:
        """The projection of a column's tower into the shared space."""
        found: nn.Module = getattr(self, f"{self.share.get(column, column)}_projection")
        return found

    def parts(self) -> dict[str, nn.Module]:
        """What objectives and subclasses have added to the model, by name."""
        own = {f"{column}_{kind}" for column in self.own_columns for kind in ("encoder", "projection")}
        return {name: part for name, part in self.named_children() if name not in own}

    def scale(self) -> Tensor:
        """The inverse temperature (1,), without gradient; whole also where parameters are sharded."""
        value = self.logit_scale.detach()
        return (value.full_tensor() if isinstance(value, DTensor) else value).exp()

    def encode(self, column: str, value: Any) -> Tensor:
        """A column's values, or `KeptFeatures` of its tower -> unit features (B, D)."""
        tower = self.tower(column)
        backbone = value.features if isinstance(value, KeptFeatures) else self._backbone(tower, value)  # (B, W)
        return normalize(self.head(column)(backbone), dim=-1)  # (B, W) -> (B, D)

    def encode_with_tokens(self, column: str, value: Any) -> tuple[Tensor, Tensor]:
        """A column's values -> unit features (B, D), and the tower's features of all tokens (B, L, W).

        Raises:
            InputError: the tower has no tokens.
        """
        backbone, tokens = self.tower(column).forward_both(*self._read(self.tower(column), value))
        return normalize(self.head(column)(backbone), dim=-1), tokens

    def encode_dense(self, image: Tensor, method: str | DenseMethod | None = None) -> TokenGrid:
        """Pixels (B, 3, S, S), uint8 or already normalised -> unit features of each token in the shared space.

        Args:
            image: as for `encode_image`.
            method: as for `dense_tokens`.

        Raises:
            InputError: the image tower has no features of places, or not by this method.
        """
        view = self.tower("image").dense_view()
        (image,) = self.inputs("image", image)
        prefix, grid = dense_tokens(view, image, method)
        tokens = view.each(torch.cat([prefix, grid.flatten(1, 2)], dim=1))  # (B, L, W) -> (B, L, W')
        features = normalize(self.head("image")(tokens), dim=-1)  # -> (B, L, D)
        return TokenGrid.split(features, prefix.shape[1], grid.shape[1], grid.shape[2])

    def inputs(self, column: str, value: Any) -> tuple[Any, ...]:
        """What a column's tower takes of its values: pixels normalised, token ids with their mask."""
        return self._read(self.tower(column), value)

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), uint8 or already normalised -> unit features (B, D)."""
        return self.encode("image", image)

    def image_backbone(self, image: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), uint8 or already normalised -> features of the image tower before its head (B, W)."""
        return self._backbone(self.tower("image"), image)

    def encode_text(self, tokens: Tensor, mask: Tensor | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> unit features (B, D).

        Without a mask each row is text up to its last id that is not `pad_id`: what tokenizers of openai/CLIP and open_clip
        hand out is read at the end of the text. Captions are encoded in `text_chunks` chunks by length; `lengths` of the
        captions, where they are known, save waiting for the device.
        """
        return self.encode("text", Tokens(tokens, mask, lengths))

    def forward(
        self,
        image: Tensor | KeptFeatures | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        *,
        tokens_of: Collection[str] = (),
        **columns: Any,
    ) -> ClipOutput:
        """Encodes what is given.

        Args:
            image: pixels (B, 3, H, W).
            tokens: ids int64 (B, L) of column "text".
            mask: bool (B, L), True on text.
            lengths: of the captions.
            tokens_of: columns whose token features (B, L, W) are wanted, too.
            **columns: values of any others by name; what is None is left out.
        """
        # First, and as values of their own: a sharding strategy may take the parameters away after each encoder.
        scale = self.logit_scale.exp()
        bias = None if self.logit_bias is None else self.logit_bias.clone()
        text = None if tokens is None else Tokens(tokens, mask, lengths)
        given = {"image": image, "text": text, **columns}
        features: dict[str, Tensor] = {}
        of_tokens: dict[str, Tensor] = {}
        for column, value in given.items():
            if value is None:
                continue
            if column in tokens_of:
                features[column], of_tokens[column] = self.encode_with_tokens(column, value)
            else:
                features[column] = self.encode(column, value)
        return ClipOutput(features, scale, bias, tokens=of_tokens)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As everywhere, but `half()` and `bfloat16()` leave mean, std and temperature in the precision that they have."""
        own = [*self.parameters(recurse=False), *self.buffers(recurse=False)] if self.keeps_precision else []
        precise = {id(value) for value in own} | {id(value.grad) for value in own if value.is_leaf and value.grad is not None}

        def apply(value: Tensor) -> Tensor:
            new = fn(value)
            half = new.dtype in (torch.bfloat16, torch.float16)
            return value.to(new.device) if half and id(value) in precise else new

        return super()._apply(apply, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def _backbone(self, tower: Any, value: Any) -> Tensor:
        """Values of a column -> features of its tower (B, W)."""
        inputs = self._read(tower, value)
        if not isinstance(tower, TextEncoder):
            features: Tensor = tower(*inputs)
            return features
        tokens, mask = inputs
        if self.text_chunks > 1 and len(tokens) and tower.packs(tokens):
            packed: Tensor = tower(tokens, mask, text_lengths(mask) if value.lengths is None else value.lengths)
            return packed
        return encode_in_chunks(tower, tokens, mask, value.lengths, self.text_chunks)

    def _read(self, tower: Any, value: Any) -> tuple[Any, ...]:
        """What a tower's forward takes of a column's values: pixels are normalised here, on the device."""
        if isinstance(tower, TextEncoder):
            return right_padded(value.tokens, self.pad_id) if value.mask is None else (value.tokens, value.mask)
        if not isinstance(tower, ImageEncoder):
            return value if isinstance(value, tuple) else (value,)
        if is_packed(value):
            return self._patches(tower, value)
        if value.dtype == torch.uint8:
            value = (value.to(self.mean.dtype) / 255 - self.mean) / self.std
        dtype = next((weight.dtype for weight in tower.parameters() if weight.is_floating_point()), value.dtype)
        value = value.to(dtype)  # rounded once, after normalisation, in a model in half precision
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return (value.contiguous(memory_format=layout),)

    def _patches(self, tower: ImageEncoder, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Packed patches (B, 1, 1, L, P + 5) -> normalised ones (B, L, P), their places (B, L, 2), and a mask (B, L)."""
        if not isinstance(tower, NaflexImageEncoder):
            raise InputError(
                f"the images are patches of any shape (transform.resize 'patches'), but {type(tower).__name__} reads pixels of "
                "one size: take a NaFlex tower ({name: naflex, ...}), or another resize"
            )
        patches, places, there = unpack(packed)
        mean, std = self.mean.flatten(), self.std.flatten()  # (3,)
        colours = patches.reshape(*patches.shape[:2], -1, 3).to(mean.dtype) / 255  # (B, L, P) -> (B, L, p * p, 3)
        values = ((colours - mean) / std).flatten(2) * there.unsqueeze(2)  # -> (B, L, P), 0 on padding
        dtype = next((weight.dtype for weight in tower.parameters() if weight.is_floating_point()), values.dtype)
        return values.to(dtype), places, there
