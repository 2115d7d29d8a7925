"""Whole weights: a module with adapters or separate embeddings for new tokens -> an ordinary one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from torch import nn
from torch.distributed.tensor import DTensor

from lightning_clip.adapt.lora import has_parts
from lightning_clip.core.errors import InputError
from lightning_clip.encoders.new_tokens import join_new_tokens
from lightning_clip.weights.trained import TrainedModel

if TYPE_CHECKING:
    from lightning_clip.module.clip_module import ClipModule

__all__ = ["is_whole", "merged", "whole"]

Module = TypeVar("Module", bound="ClipModule")
Whole = TypeVar("Whole", bound="ClipModule | TrainedModel")


def merged(module: Module) -> Module:
    """A copy in which adapters and new tokens are part of the weights: an ordinary module, on the same device, whose
    checkpoints hold all of them.

    Args:
        module: with adapters or separate embeddings for new tokens, or of whose weights checkpoints hold only what is trained.

    Raises:
        InputError: an ordinary module already, or weights that a strategy has spread.
    """
    module.configure_model()
    if any(isinstance(value, DTensor) for value in module.parameters()):
        raise InputError("weights that a strategy has spread cannot be merged: save a checkpoint and merge that")
    if is_whole(module):
        raise InputError(
            "the module has no adapters (adapt.image.lora, adapt.text.lora) and no new tokens in a locked tower, and its "
            "checkpoints hold everything: its weights are whole as they are"
        )
    ordinary = _copied(module)
    model = ordinary.model
    for column in model.own_columns:
        _unwrap(model.tower(column))
    if "text" in model.own_columns:
        join_new_tokens(model.tower("text"))
    ordinary.forget_adaptation()
    return ordinary.train(module.training)


def whole(module: Whole) -> Whole:
    """The module itself, or `merged` where that makes a difference."""
    if isinstance(module, TrainedModel):
        return module
    module.configure_model()
    return module if is_whole(module) else merged(module)


def is_whole(module: ClipModule) -> bool:
    """Whether the module and its checkpoints are those of an ordinary training."""
    return not has_parts(module.state_dict()) and module.adaptation.partial is None


def _unwrap(encoder: nn.Module) -> None:
    """Adds B A to W and puts W's layer back in its place."""
    if not any(".lora_" in name for name, _ in encoder.named_parameters()):
        return  # new tokens alone need no peft
    from peft.tuners.lora import LoraLayer

    for name, layer in list(encoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()  # type: ignore[attr-defined]  # of the layers, which all have it
            parent, _, last = name.rpartition(".")
            setattr(encoder.get_submodule(parent), last, layer.get_base_layer())
    for layer in encoder.modules():
        if hasattr(layer, "peft_config"):
            del layer.peft_config


def _copied(module: Module) -> Module:
    """Without its Trainer, which holds the data and more."""
    trainer, module._trainer = module._trainer, None
    try:
        return copy.deepcopy(module)
    finally:
        module._trainer = trainer
