"""Weights of several models mixed into one, and checks that they may be."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.space import SharedSpace
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.tasks.supervised import classes_of

__all__ = ["Weights", "average", "check_alike", "check_same", "interpolate", "lasting", "write_checkpoint"]

Weights = Mapping[str, Tensor]


def interpolate(first: Weights, second: Weights, alpha: float) -> dict[str, Tensor]:
    r"""Weights :math:`(1 - \alpha) \theta_0 + \alpha \theta_1` (Wortsman et al. 2022, arXiv 2109.01903, equation 1).

    0 and 1 give the ends bit by bit. Whole numbers and flags are those of the nearer end.

    Args:
        first: state of the model before fine-tuning, tensors of any shape.
        second: after it, of the same names and shapes.
        alpha: in [0, 1].

    Raises:
        InputError: another alpha, or weights of different architectures.

    Examples:
        >>> interpolate({"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}, 0.5)
        {'w': tensor([0.5000, 3.0000])}
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha} must be in [0, 1]: 0 is the first model, 1 the second")
    check_same(first, second, "the first model", "the second")
    if alpha in (0, 1):
        return {name: value.clone() for name, value in (second if alpha else first).items()}
    mixed = {}
    for name, value in first.items():
        other = second[name]
        floating = value.is_floating_point()
        mixed[name] = (1 - alpha) * value + alpha * other if floating else (value if alpha < 0.5 else other).clone()
    return mixed


def average(states: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of weights of the same names, each of any shape; whole numbers and flags are the first one's.

    Summed in float64, so that the order of the models does not matter.

    Raises:
        InputError: no model, or different architectures.
    """
    if not states:
        raise InputError("a soup needs at least one model")
    for number, state in enumerate(states[1:], start=2):
        check_same(states[0], state, "model 1", f"model {number}")
    if len(states) == 1:
        return {name: value.clone() for name, value in states[0].items()}
    return {
        name: (sum(state[name].double() for state in states) / len(states)).to(value.dtype)  # type: ignore[union-attr]
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def check_same(first: Weights, second: Weights, first_name: str, second_name: str) -> None:
    """Refuses weights of different architectures.

    Raises:
        InputError: a name that one of them lacks, or another shape.
    """
    for name in sorted(first.keys() ^ second.keys()):
        has, lacks = (first_name, second_name) if name in first else (second_name, first_name)
        raise InputError(f"{has} has weights {name!r}, which {lacks} lacks: only models of one architecture can be mixed")
    for name, value in first.items():
        if value.shape != second[name].shape:
            raise InputError(
                f"weights {name!r} are {tuple(value.shape)} in {first_name} and {tuple(second[name].shape)} in "
                f"{second_name}: only models of one architecture can be mixed"
            )


def lasting(module: ClipModule) -> dict[str, Tensor]:
    """A model's weights, of any shape, without what only training needs, such as a distilled student's bridges."""
    state: Weights = module.model.state_dict()
    return {name: value for name, value in state.items() if name.partition(".")[0] not in module.training_parts}


def check_alike(first: ClipModule, second: ClipModule, first_name: str, second_name: str, added: tuple[str, ...] = ()) -> None:
    """Refuses modules whose weights differ in names, shapes or meaning.

    Heads of attention and activations leave no trace in names and shapes: the same weights are tried in both.

    Args:
        first: whole.
        second: likewise.
        first_name: for messages.
        second_name: likewise.
        added: beginnings of the names of weights that the second alone may have.

    Raises:
        InputError: other tokenizers, architectures, classes or orders of them, or other features of the same weights.
    """
    only = "only models of one architecture can be mixed"
    if first.tokenizer.to_mapping() != second.tokenizer.to_mapping():
        raise InputError(f"{first_name} and {second_name} read text with different tokenizers: {only}")
    learned = [classes_of(module.objective) for module in (first, second)]
    if learned[0] is not None and learned[1] is not None and learned[0].class_names != learned[1].class_names:
        raise InputError(f"{first_name} and {second_name} learned other classes, or these in another order: train them alike")
    own, other = lasting(first), lasting(second)
    check_same(own, {name: value for name, value in other.items() if not name.startswith(added)}, first_name, second_name)
    tried = copy.deepcopy(second.model)
    tried.load_state_dict(own, strict=False)
    for tower, wanted, found in zip(("image", "text"), _tried(first, first.model), _tried(first, tried), strict=True):
        if not torch.allclose(wanted, found, rtol=0, atol=1e-4):
            raise InputError(
                f"{first_name} and {second_name} make other {tower} features of the same weights (heads of attention, "
                f"activation, pooling): {only}"
            )


def _tried(module: ClipModule, model: SharedSpace) -> tuple[Tensor, Tensor]:
    """Features of noise and of a sentence."""
    size, device = module.image_size, model.logit_scale.device
    noise = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens, mask = module.tokenizer(["a photo of a dog, seen from above"])
    with evaluating(model):
        return model.encode_image(noise.to(device)), model.encode_text(tokens.to(device), mask.to(device))


def write_checkpoint(module: ClipModule, path: str | Path) -> None:
    """Writes weights and arguments as the Trainer does, without optimizer."""
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    module.on_save_checkpoint(checkpoint)
    with beside(path) as place:
        torch.save(checkpoint, place)
