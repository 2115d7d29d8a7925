"""Checkpoints that hold only what was trained: shrunk when written, completed when read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_clip.checkpoints.reading import content_of
from lightning_clip.core.errors import InputError

__all__ = ["BASE_KEY", "TrainedOnly", "complete", "fingerprint", "options_with_base"]

BASE_KEY = "lightning_clip_base"


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A short name for these very weights, of any shape and on any device."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


class TrainedOnly:
    """Leaves the weights that stay as they were out of checkpoints, and puts them back.

    A checkpoint notes a fingerprint of what was left out: other weights in their place are an error, not a worse model.

    Args:
        names: of the module's weights that are left out.
        source: what the user called the weights that the run began with, or None where they have no name.
    """

    def __init__(self, names: Collection[str], source: str | None) -> None:
        self.names, self.source = set(names), source
        self._fingerprint = ""

    def shrink(self, checkpoint: dict[str, Any]) -> None:
        """Takes the weights out of a checkpoint that is about to be written."""
        weights = checkpoint["state_dict"]
        left_out = {name: weights.pop(name) for name in self.names if name in weights}
        if left_out:
            self._fingerprint = self._fingerprint or fingerprint(left_out)  # they never change
            checkpoint[BASE_KEY] = {"fingerprint": self._fingerprint, "source": self.source}


def complete(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Puts the module's own weights where a checkpoint left them out.

    Raises:
        InputError: they are not those that were left out.
    """
    if BASE_KEY not in checkpoint or "state_dict" not in checkpoint:  # a strategy has taken the weights already
        return
    weights, noted = checkpoint["state_dict"], checkpoint[BASE_KEY]
    own = {name: _whole(value) for name, value in module.state_dict().items() if name not in weights}
    if fingerprint(own) != noted["fingerprint"]:
        began = f"those of {noted['source']!r}" if noted["source"] else "weights without a name"
        raise InputError(
            f"the checkpoint holds only what was trained (adapt.store) on top of {began}, and the weights at hand are others: "
            "pass those that the run began with, load_from_checkpoint(path, pretrained='BASE.ckpt') or lightning-clip "
            "checkpoint merge --pretrained BASE.ckpt, or train again with adapt.store: full"
        )
    weights.update(own)


def options_with_base(path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of `load_from_checkpoint`: with `pretrained`, a checkpoint whose base has no name takes both towers from it.

    Raises:
        InputError: the weights that the run began with are not where they were, or are given for a checkpoint that is whole.
    """
    content = content_of(path, options["weights_only"])
    noted = content.get(BASE_KEY)
    if options.get("pretrained") is None:
        if noted is not None:
            _check_in_place(path, content["hyper_parameters"].get("pretrained"))
        return options
    if noted is None:
        raise InputError(f"checkpoint {str(path)!r} holds all of its weights: load it without pretrained")
    if noted["source"] is not None:
        return options
    stored = content["hyper_parameters"]["towers"]
    heads = {column: {key: spec[key] for key in ("projection", "transform") if key in spec} for column, spec in stored.items()}
    return {"image_encoder": None, "text_encoder": None, "towers": heads, **options}


def _check_in_place(path: Any, pretrained: Any) -> None:
    source = str(pretrained["source"] if isinstance(pretrained, Mapping) else pretrained)
    if pretrained is None or source.startswith(("open_clip:", "hf:")) or Path(source).expanduser().exists():
        return
    raise InputError(
        f"checkpoint {str(path)!r} holds only what was trained on top of {source!r}, which is not there: name those weights "
        f"again, load_from_checkpoint(path, pretrained='BASE.ckpt'), or make whole weights once, lightning-clip checkpoint "
        f"merge {path} WHOLE.ckpt --pretrained BASE.ckpt"
    )


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
