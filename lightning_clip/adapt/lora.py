"""Low-rank adapters on the towers, through peft.

W x becomes W x + alpha / rank * B A x, W frozen, A drawn and B zero at the start, so that nothing changes before the first step
(Hu et al. 2021, https://arxiv.org/abs/2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from torch import nn

from lightning_clip.adapt.depth import block_names
from lightning_clip.adapt.settings import AdaptSettings
from lightning_clip.adapt.towers import LoraSettings
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.encoders.base import ImageEncoder, TextEncoder
from lightning_clip.encoders.new_tokens import has_new_tokens, new_token_names
from lightning_clip.model.space import SharedSpace

__all__ = ["add_adapters", "has_parts", "layers_to_adapt"]


def add_adapters(model: SharedSpace, settings: AdaptSettings) -> None:
    """Puts adapters into the towers whose settings have `lora`, in place; all else of those towers is frozen but new tokens.

    Raises:
        InputError: peft is missing, or targets that the tower has not.
    """
    for tower, adapt in settings.towers.items():
        if adapt.lora is None:
            continue
        if find_spec("peft") is None:
            raise InputError(f'adapt.{tower}.lora needs peft, which is not installed: pip install "lightning-clip[adapt]"')
        from peft import LoraConfig, inject_adapter_in_model

        encoder = model.tower(tower)
        config = LoraConfig(
            r=adapt.lora.rank,
            lora_alpha=adapt.lora.alpha,  # type: ignore[arg-type]  # any number will do
            lora_dropout=adapt.lora.dropout,
            target_modules=layers_to_adapt(encoder, adapt.lora, f"adapt.{tower}.lora"),
        )
        new_tokens = [encoder.get_parameter(name) for name in new_token_names(encoder)]
        learning = [parameter for parameter in new_tokens if parameter.requires_grad]
        inject_adapter_in_model(config, encoder)
        for parameter in learning:
            parameter.requires_grad_(True)


def layers_to_adapt(encoder: ImageEncoder | TextEncoder, settings: LoraSettings, where: str = "lora") -> list[str]:
    """The dotted names of the layers in a tower's blocks that get adapters.

    Raises:
        InputError: a target that no layer ends with or that cannot be merged, or a tower without linear layers in its blocks
            and no targets.

    Examples:
        >>> from lightning_clip.encoders import text_encoders
        >>> encoder = text_encoders.build({"name": "clip_text", "width": 8, "layers": 1, "heads": 2, "vocab_size": 9})
        >>> layers_to_adapt(encoder, LoraSettings())
        ['transformer.0.attn.qkv', 'transformer.0.attn.proj']
    """
    layers = _layers_in_blocks(encoder)
    known = sorted({name.rpartition(".")[2] for name in layers})
    if settings.targets is None:
        found = _usual_layers(layers)
        if not found:
            raise InputError(
                f"{where}: the blocks of {type(encoder).__name__} have no linear layers; name others as targets, of "
                f"{', '.join(known) or 'which there are none'}"
            )
        return found
    for target in settings.targets:
        if not any(_ends_with(name, target) for name in layers):
            raise InputError(
                f"{where}.targets: no layer of {type(encoder).__name__} is called {target!r}: {nearest(target, known)}"
            )
    named = [name for name in layers if any(_ends_with(name, target) for target in settings.targets)]
    if grouped := [name for name in named if getattr(layers[name], "groups", 1) > 1]:
        raise InputError(
            f"{where}.targets: {grouped[0]!r} is a convolution in groups, whose adapter could not be merged: leave out "
            f"{grouped[0].rpartition('.')[2]!r}"
        )
    return named


def _usual_layers(layers: dict[str, nn.Module]) -> list[str]:
    """The linear layers of attention, or all linear layers where there is no attention."""
    linear = [name for name, layer in layers.items() if not isinstance(layer, nn.Conv2d)]
    attention = [name for name in linear if any("attn" in part or "attention" in part for part in name.lower().split("."))]
    return attention or linear


def _ends_with(name: str, target: str) -> bool:
    """Whether a layer's dotted name ends with the parts of another.

    Examples:
        >>> _ends_with("blocks.0.attn.qkv", "attn.qkv"), _ends_with("blocks.0.attn.qkv", "kv")
        (True, False)
    """
    return f".{name}".endswith(f".{target}")


def has_parts(names: Iterable[str]) -> bool:
    """Whether weights of these names are to be merged before they are those of an ordinary model."""
    names = list(names)
    return has_new_tokens(names) or any(".lora_" in name for name in names)


def _layers_in_blocks(encoder: ImageEncoder | TextEncoder) -> dict[str, nn.Module]:
    """Layers that peft can wrap; those in torch's own attention are never called as layers, and so are left out."""
    kinds: tuple[Any, ...] = (nn.Linear, nn.Conv2d)
    if not isinstance(encoder, ImageEncoder):
        from transformers.pytorch_utils import Conv1D

        kinds = (*kinds, Conv1D)
    inner = {id(part) for layer in encoder.modules() if isinstance(layer, nn.MultiheadAttention) for part in layer.modules()}
    blocks = tuple(f"{name}." for name in block_names(encoder))
    return {
        name: layer
        for name, layer in encoder.named_modules()
        if isinstance(layer, kinds) and f"{name}.".startswith(blocks) and id(layer) not in inner
    }
