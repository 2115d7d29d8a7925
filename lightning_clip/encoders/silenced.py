"""`SilencedHeads`: a Vision Transformer some of whose attention heads write nothing of a picture into its class token.

What heads write to other tokens stays. In the place of what they would write into the class token stands a constant: zeros, or
what they write on average. No weight of the tower is changed (Hufe et al. 2025, Dyslexify, arXiv 2508.20570).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.base import ImageEncoder, image_encoders
from lightning_clip.encoders.block_parts import BlockParts
from lightning_clip.encoders.dense import DenseView

__all__ = ["SilencedHeads", "SilencedView", "head_sizes", "view_with_heads"]


def view_with_heads(tower: ImageEncoder) -> DenseView:
    """The steps of a tower whose features are those of a class token that attention heads write into.

    Args:
        tower: any image tower.

    Raises:
        InputError: a tower without attention heads, of an unknown kind, or whose features are not those of a class token.
    """
    name = tower.architecture or type(tower).__name__
    try:
        view = tower.dense_view()
    except InputError:
        view = None
    if view is None or not view.blocks:
        raise InputError(f"image tower {name} has no attention heads that are known: take a ViT with a class token")
    if not view.reads_first or not view.prefix:
        raise InputError(
            f"image tower {name} pools all of its tokens, and heads are silenced where they write into a class token: take a "
            "ViT whose features are those of its class token"
        )
    return view


def head_sizes(block: nn.Module) -> tuple[int, int]:
    """Number of heads of a block that a `DenseView` takes apart, and the width of each."""
    layers: Any = block
    attention = layers.self_attn if hasattr(layers, "self_attn") else layers.attn
    return int(attention.num_heads), int(attention.head_dim)


@image_encoders.register("silenced")
class SilencedHeads(ImageEncoder):
    """A ViT some of whose heads write a constant into the class token.

    Args:
        tower: the ViT, ours, open_clip's or transformers': a name, a mapping or an `ImageEncoder`.
        heads: pairs of a block and a head in it, counted from 0.

    Attributes:
        written: float (N, D) buffer, what each of `heads` writes in the place of what it finds, before the output projection;
            zeros at first.

    Raises:
        InputError: a tower without such heads, a head that it does not have, or one twice.

    Examples:
        >>> vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2}
        >>> tower = SilencedHeads(vit, heads=[[1, 0], [1, 2]])
        >>> tower(torch.zeros(2, 3, 32, 32)).shape, tower.written.shape
        (torch.Size([2, 192]), torch.Size([2, 64]))
    """

    written: Tensor

    def __init__(self, tower: Any, heads: Sequence[Sequence[int]]) -> None:
        built = image_encoders.build(tower)
        view = view_with_heads(built)
        super().__init__(output_dim=built.output_dim, image_size=built.image_size)
        self.heads = _checked_heads(heads, [head_sizes(block)[0] for block in view.blocks])
        self.architecture = built.architecture
        self._given = None if isinstance(tower, nn.Module) else tower
        self.tower = built
        self.register_buffer("written", torch.zeros(len(self.heads), head_sizes(view.blocks[0])[1]))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, output_dim)."""
        return self.forward_both(image)[0]

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> tokens (B, L, W) before the pooling."""
        return self.forward_both(image)[1]

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, S, S) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        view = self.dense_view()
        x, *_ = view.enter(image)  # (B, 3, S, S) -> (B, L, W)
        for block in view.blocks:
            x = view.run(block, x)
        tokens = view.leave(x)
        return view.pool(tokens), tokens

    def dense_view(self) -> DenseView:
        """The tower's steps, with the heads silenced."""
        by_block: dict[int, list[tuple[int, Tensor]]] = {}
        for (block, head), value in zip(self.heads, self.written, strict=True):
            by_block.setdefault(block, []).append((head, value))
        return SilencedView(self.tower.dense_view(), by_block)

    def drop_tokens(self, share: float) -> None:
        """From now on drops that share of its patches in training."""
        self.tower.drop_tokens(share)

    def take_sizes(self) -> None:
        """From now on takes smaller images, too."""
        self.tower.take_sizes()

    def blocks(self) -> list[nn.Module]:
        """Those of the tower."""
        return self.tower.blocks()

    def to_mapping(self) -> dict[str, Any]:
        """The tower's own mapping, and the heads."""
        return {
            "name": "silenced",
            "tower": self.tower.to_mapping() or self._given,
            "heads": [list(pair) for pair in self.heads],
        }


class SilencedView(DenseView):
    """Another view in which heads write constants into the class token.

    Args:
        inner: of a tower with a class token.
        silenced: block -> heads in it, each with what it writes (D,).
    """

    def __init__(self, inner: DenseView, silenced: dict[int, list[tuple[int, Tensor]]]) -> None:
        super().__init__(inner.blocks, inner.prefix, reads_first=inner.reads_first)
        self.inner = inner
        self._silenced = {id(inner.blocks[number]): heads for number, heads in silenced.items()}

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """As the tower."""
        return self.inner.enter(image)

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block with its heads silenced: tokens (B, L, W) -> (B, L, W)."""
        if id(block) not in self._silenced:
            return self.inner.run(block, x)
        parts = self.parts(block)
        x = x + parts.added(scaled_dot_product_attention(*parts.heads(x)))  # (B, H, L, D) -> (B, L, W)
        return x + parts.mlp(x)

    def parts(self, block: nn.Module) -> BlockParts:
        """A block taken apart, whose silenced heads find nothing for the class token."""
        parts = self.inner.parts(block)
        heads = self._silenced.get(id(block), [])

        def project(found: Tensor) -> Tensor:
            silent = found.clone()
            for head, value in heads:
                width = len(value)
                silent[:, 0, head * width : (head + 1) * width] = value.to(found)  # (B, D) of (B, L, H D)
            return parts.project(silent)

        return BlockParts(parts.heads, project, parts.mlp) if heads else parts

    def leave(self, x: Tensor) -> Tensor:
        """As the tower."""
        return self.inner.leave(x)

    def each(self, tokens: Tensor) -> Tensor:
        """As the tower."""
        return self.inner.each(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        """As the tower."""
        return self.inner.pool(tokens)


def _checked_heads(heads: Sequence[Sequence[int]], counts: list[int]) -> list[tuple[int, int]]:
    """Pairs of a block and a head that exist, each once, in order."""
    found: list[tuple[int, int]] = []
    for pair in heads:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(number) is int for number in pair):
            raise InputError(f"heads has {pair!r}: give pairs of a block and a head in it, such as [5, 3]")
        block, head = pair
        if not 0 <= block < len(counts) or not 0 <= head < counts[block]:
            raise InputError(
                f"heads has [{block}, {head}], which the tower lacks: it has blocks 0 to {len(counts) - 1} with {counts[0]} "
                "heads each"
            )
        if (block, head) in found:
            raise InputError(f"heads has [{block}, {head}] twice: keep one")
        found.append((block, head))
    if not found:
        raise InputError("heads is empty: give at least one pair of a block and a head, or take the tower as it is")
    return sorted(found)
