"""Optimizers by name or as an object: torch's AdamW, Muon, schedule-free AdamW, timm's, and those that a user registers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers  # type: ignore[attr-defined]
from torch import nn
from torch.optim import AdamW, Optimizer

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.registry import LIVE, Registry
from lightning_clip.training.muon import Muon

__all__ = ["Factory", "build_from", "hidden_matrices", "is_muon", "note_of", "optimizers"]

Factory = Callable[..., Optimizer]
Groups = list[dict[str, Any]]
_MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
_SMALLEST = 4  # rows and columns of a matrix that is worth making orthogonal


def is_muon(name: Any) -> bool:
    """Whether an optimizer treats hidden matrices otherwise than the rest, so that both stand in groups of their own.

    Args:
        name: of the optimizer, or its factory.
    """
    return isinstance(name, str) and name == "muon"


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights that Muon is for: of linear layers and convolutions inside the towers.

    Not for embeddings, positions, heads, the temperature and what objectives add, which are no maps between hidden layers
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), nor for LoRA's factors, whose product is the map.
    Decided by layers and names: sharding changes neither.

    Args:
        model: its towers stand in `COLUMN_encoder`.

    Examples:
        >>> from lightning_clip import ClipModel
        >>> image = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1}
        >>> model = ClipModel(image, {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}, embed_dim=16)
        >>> found = hidden_matrices(model)
        >>> "image_encoder.model.patch_embed.proj.weight" in found, "image_projection.weight" in found
        (True, False)
    """
    found = set()
    for place, layer in model.named_modules():
        if not isinstance(layer, _MATRICES) or not place.partition(".")[0].endswith("_encoder") or "lora" in place:
            continue
        for name, weight in layer.named_parameters(recurse=False):
            if weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= _SMALLEST:  # (out, in, ...) -> (out, in x ...)
                found.add(f"{place}.{name}")
    return found


def _timm(name: str) -> Factory | None:
    """Timm's optimizer of a name, with its own settings bound; None where timm has none, or none that can be built here."""
    if name not in list_optimizers():
        return None
    if get_optimizer_info(name).second_order:
        raise InputError(f"optimizer.name {name!r} needs second derivatives, which a step does not compute: use another")
    try:
        found: Factory = get_optimizer_class(name, bind_defaults=True)
    except (AssertionError, ImportError) as error:
        raise InputError(f"optimizer.name {name!r} cannot be built here: {error}") from error
    return found


optimizers: Registry[Optimizer] = Registry("optimizer", fallback=_timm)


@optimizers.register("adamw")
def _adamw(groups: Groups, lr: float, betas: tuple[float, float], eps: float, fused: bool = False) -> Optimizer:
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


optimizers.register("muon")(Muon)


@optimizers.register("schedulefree_adamw")
def _schedule_free(
    groups: Groups,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    foreach: bool = True,
) -> Optimizer:
    """The road less scheduled, Defazio et al. 2024, arXiv 2405.15682: an average of the weights in the place of a schedule."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise InputError(
            "optimizer 'schedulefree_adamw' needs the package schedulefree: pip install 'lightning-clip[schedulefree]'"
        ) from error
    options = {"r": r, "weight_lr_power": weight_lr_power, "foreach": foreach}
    optimizer: Optimizer = AdamWScheduleFree(groups, lr=lr, betas=betas, eps=eps, **options)
    return optimizer


def build_from(name: Any, groups: Groups, given: Mapping[str, Any], options: Mapping[str, Any]) -> Optimizer:
    """An optimizer over groups of parameters.

    Args:
        name: registered, or timm's; or a class or function that takes groups of parameters.
        groups: with their own "lr" and "weight_decay".
        given: settings that it gets if it takes them, such as "betas".
        options: settings that it must take.

    Raises:
        InputError: an unknown name, a setting that it has not, or a checkpoint's note of an object that must be passed again.
    """
    if isinstance(name, Mapping):
        raise InputError(
            f"the checkpoint was written with a live {name.get(LIVE)} as optimizer, which it cannot hold: pass it again, "
            "training={'optimizer': {'name': ...}}, or register it under a name"
        )
    factory = optimizers.factory(name) if isinstance(name, str) else name
    accepted = inspect.signature(factory).parameters
    # What torch's optimizers set in each group may be set here for all; a catch-all takes what is left of a class's settings.
    free = any(entry.kind is entry.VAR_KEYWORD for entry in accepted.values())
    for key in options:
        if key not in accepted and not free:
            raise InputError(f"optimizer {_called(name)!r} has no setting {key!r}: {nearest(key, list(accepted)[1:])}")
    settings = {key: value for key, value in given.items() if key in accepted and value is not None}
    try:
        optimizer: Optimizer = factory(groups, **settings, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {_called(name)!r} does not take its settings: {error}") from error
    return optimizer


def _called(name: Any) -> str:
    """A name, or that of a class or function."""
    if isinstance(name, partial):
        return _called(name.func)
    return str(getattr(name, "__name__", name))


def note_of(name: Any) -> Any:
    """What a checkpoint holds of an optimizer's name: the name, or the note that an object must be passed again.

    Args:
        name: as in the settings.
    """
    return name if isinstance(name, str | Mapping) else {LIVE: _called(name)}
