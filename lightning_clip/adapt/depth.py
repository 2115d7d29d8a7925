"""Depths: where in a tower a parameter or layer stands.

Depth 0 is what comes before the blocks (stem, embeddings), 1 to L are the blocks, L + 1 is what follows them (final norm,
pooling). Blocks are those of `encoder.blocks()`; what is outside of them is placed by the order in which it is defined.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightning_clip.encoders.base import ImageEncoder, TextEncoder

__all__ = ["block_names", "layer_depths", "parameter_depths"]


def block_names(encoder: ImageEncoder | TextEncoder) -> list[str]:
    """The blocks' dotted names, first to last."""
    names = {id(layer): name for name, layer in encoder.named_modules()}
    return [names[id(block)] for block in encoder.blocks()]


def parameter_depths(encoder: ImageEncoder | TextEncoder) -> dict[str, int]:
    """By name of parameter.

    Examples:
        >>> from lightning_clip.encoders import text_encoders
        >>> encoder = text_encoders.build({"name": "clip_text", "width": 8, "layers": 2, "heads": 2, "vocab_size": 9})
        >>> depths = parameter_depths(encoder)
        >>> depths["positional_embedding"], depths["transformer.1.attn.qkv.weight"], depths["final_norm.bias"]
        (0, 2, 3)
    """
    return _placed((name for name, _ in encoder.named_parameters()), block_names(encoder))


def layer_depths(encoder: ImageEncoder | TextEncoder) -> dict[str, int]:
    """By name of layer, for layers that hold no others."""
    leaves = (name for name, layer in encoder.named_modules() if next(layer.children(), None) is None)
    return _placed(leaves, block_names(encoder))


def _placed(names: Iterable[str], blocks: list[str]) -> dict[str, int]:
    found, after = {}, False
    for name in names:
        depth = next((place for place, block in enumerate(blocks, 1) if f"{name}.".startswith(f"{block}.")), None)
        after = after or depth is not None
        found[name] = depth if depth is not None else (len(blocks) + 1 if after else 0)
    return found


def subtree(name: str, depths: dict[str, int]) -> list[int]:
    """Depths of the layers that a module holds.

    Examples:
        >>> subtree("a", {"a.x": 1, "a.y": 2, "b": 3})
        [1, 2]
    """
    return [depth for leaf, depth in depths.items() if not name or f"{leaf}.".startswith(f"{name}.")]
