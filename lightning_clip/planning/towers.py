"""Costs of a tower per sample: parameters, FLOPs and kept activations.

Nothing is allocated and nothing computed: the towers run on fake tensors, which have shapes and types but no memory, so that a
tower of a billion weights costs seconds and no gigabytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from lightning_clip.model.space import SharedSpace
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.objectives import Objective
from lightning_clip.planning.flops import FlopCounter, Flops

__all__ = [
    "FakeClip",
    "TowerCost",
    "fake_clip",
    "freeze_unused",
    "measure",
    "measure_image_tower",
    "measure_other_tower",
    "measure_text_tower",
    "measure_towers",
    "saved_bytes",
]

# Two sizes tell what grows with the batch from what does not; one sample alone would be broadcast instead of computed.
_SIZES = (2, 4)


@dataclass(frozen=True)
class TowerCost:
    """One tower with its head.

    Args:
        name: the column that it reads.
        parameters: their number.
        flops: per sample.
        activations: bytes per sample that forward keeps for backward.
        fixed: bytes that it keeps whatever the batch: weights that autocast has cast.
        kind: "tower", or "part" for what an objective adds.
    """

    name: str
    parameters: int
    flops: Flops
    activations: float
    fixed: float
    kind: str = "tower"


@dataclass(frozen=True)
class FakeClip:
    """A model whose tensors have no memory.

    Args:
        model: the copy.
        mode: under which its tensors live.
        mixed: whether it computes under autocast.
    """

    model: SharedSpace
    mode: FakeTensorMode
    mixed: bool


def fake_clip(module: ClipModule, precision: str = "32-true") -> FakeClip:
    """A copy of a module's model on fake CPU tensors in training mode; the module's own weights, if any, stay as they are.

    Args:
        module: built, or not built yet: then it is built on the meta device.
        precision: of the Trainer; "bf16-true" and "16-true" store weights in half.
    """
    if not module.is_built:
        with torch.device("meta"):
            module.configure_model()
    bits, _, kind = precision.partition("-")
    stored = {"16": torch.bfloat16, "bf16": torch.bfloat16, "64": torch.float64}.get(bits) if kind != "mixed" else None
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: dict[int, Any] = {}
    with mode:
        for tensor in (*module.model.parameters(), *module.model.buffers()):
            dtype = stored if stored is not None and tensor.is_floating_point() else tensor.dtype
            fake = torch.empty(tensor.shape, dtype=dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
    # deepcopy takes what its memo already holds, so each tensor becomes its fake wherever it is used, tied ones too.
    model = copy.deepcopy(module.model, fakes).train()
    module.adaptation.show_most(model)
    return FakeClip(model, mode, mixed=kind == "mixed")


def measure_towers(fake: FakeClip, image_size: int, caption_length: int, objective: Objective) -> tuple[TowerCost, ...]:
    """Costs of all towers, each with its head; one that reads several columns, or further texts, is passed so many times.

    Args:
        fake: of `fake_clip`.
        image_size: side in pixels.
        caption_length: tokens L to which a batch of captions is padded.
        objective: says whose tokens are all computed, and what is encoded besides.

    Raises:
        InputError: a tower of another column that gives no example of what it reads.
    """
    costs = []
    for column in fake.model.own_columns:
        if column == "image":
            measured = partial(measure_image_tower, fake, image_size)
        elif column == "text":
            measured = partial(measure_text_tower, fake, caption_length)
        else:
            measured = partial(measure_other_tower, fake, column)
        cost = measured(tokens=column in objective.reads_tokens())
        passes = sum(owner == column for owner in fake.model.share.values()) + objective.further_values().get(column, 0)
        again = measured() if passes else cost  # whose tokens nobody reads
        costs.append(
            replace(
                cost,
                flops=cost.flops + again.flops * passes,
                activations=cost.activations + again.activations * passes,
            )
        )
    return tuple(costs)


def measure_other_tower(fake: FakeClip, column: str, tokens: bool = False) -> TowerCost:
    """Costs of the tower of a further column with its head, for values as `Tower.example` gives them.

    Args:
        fake: of `fake_clip`.
        column: that it reads.
        tokens: whether the features of all tokens are computed, too.

    Raises:
        InputError: the tower gives no example.
    """
    model = fake.model

    def encode(size: int) -> Tensor:
        value = model.tower(column).example(size)
        return _encoded(model, column, value if isinstance(value, tuple) else (value,), tokens)

    return measure(column, encode, fake, (model.tower(column), model.head(column)))


def measure_image_tower(fake: FakeClip, image_size: int, tokens: bool = False) -> TowerCost:
    """Costs of the image tower with its head, at a side of `image_size` pixels; with `tokens` those of all tokens."""
    model = fake.model

    def encode(size: int) -> Tensor:
        dtype = next(weight.dtype for weight in model.tower("image").parameters())
        channels = model.tower("image").channels
        image = torch.empty(size, channels, image_size, image_size, dtype=dtype)
        return _encoded(model, "image", (image,), tokens)

    return measure("image", encode, fake, (model.tower("image"), model.head("image")))


def measure_text_tower(fake: FakeClip, caption_length: int, tokens: bool = False) -> TowerCost:
    """Costs of the text tower with its head, for captions padded to `caption_length` tokens; with `tokens` those of all."""
    model = fake.model

    def encode(size: int) -> Tensor:
        ids = torch.zeros(size, caption_length, dtype=torch.long)
        return _encoded(model, "text", (ids, torch.ones_like(ids, dtype=torch.bool)), tokens)

    return measure("text", encode, fake, (model.tower("text"), model.head("text")))


def _encoded(model: SharedSpace, column: str, value: tuple[Tensor, ...], tokens: bool) -> Tensor:
    """Features of a column (B, D), beside those of all its tokens (B, D + L W)."""
    if not tokens:
        features: Tensor = model.head(column)(model.tower(column)(*value))
        return features
    backbone, every = model.tower(column).forward_both(*value)  # (B, W), (B, L, W)
    return torch.cat([model.head(column)(backbone), every.flatten(1)], dim=1)


def freeze_unused(fake: FakeClip) -> None:
    """After `measure_towers`, freezes what no gradient reached, such as the pooler of a Hugging Face model.

    Such weights get neither a gradient nor a state of the optimizer.
    """
    for part in fake.model.children():
        for weight in part.parameters():
            weight.requires_grad_(weight.requires_grad and weight.grad is not None)


def measure(name: str, encode: Callable[[int], Tensor], fake: FakeClip, parts: tuple[nn.Module, ...]) -> TowerCost:
    """Costs of what is computed for a batch.

    Args:
        name: of the cost.
        encode: a number of samples -> what is computed for them.
        fake: of `fake_clip`.
        parts: whose weights it uses.
    """
    parameters = {id(weight): weight for part in parts for weight in (*part.parameters(), *part.buffers())}
    own = list(parameters.values())
    with fake.mode, _WithoutAttentionDropout():
        with FlopCounter() as counter:
            small, features = saved_bytes(lambda: _autocast(fake, encode, _SIZES[0]), own)
            counter.backward()
            if features.requires_grad:
                torch.autograd.backward(features.sum())
        large, _ = saved_bytes(lambda: _autocast(fake, encode, _SIZES[1]), own)
    per_sample = (large - small) / (_SIZES[1] - _SIZES[0])
    count = sum(weight.numel() for weight in own if isinstance(weight, nn.Parameter))
    return TowerCost(name, count, counter.flops * (1 / _SIZES[0]), per_sample, small - _SIZES[0] * per_sample)


def saved_bytes(forward: Callable[[], Tensor], weights: list[Tensor]) -> tuple[int, Tensor]:
    """Runs a forward pass and adds up what it keeps for backward: each storage once, weights left out.

    Args:
        forward: the pass.
        weights: tensors of any shape that live anyway.

    Returns:
        Bytes, and what `forward` returned.
    """
    kept: dict[int, Any] = {}
    known = {_storage(weight)._cdata for weight in weights}

    def note(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # held, so that its address is not given to another
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    return sum(storage.nbytes() for storage in kept.values()), result


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _autocast(fake: FakeClip, encode: Callable[[int], Tensor], size: int) -> Tensor:
    context: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if fake.mixed else nullcontext()
    with context:
        return encode(size)


class _WithoutAttentionDropout(TorchFunctionMode):
    """With dropout a CPU would hold the attention matrix, which accelerators do not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is scaled_dot_product_attention:
            options["dropout_p"] = 0.0
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            if len(args) > 4:
                options.pop("dropout_p")
        return func(*args, **options)
