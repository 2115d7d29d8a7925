"""Evaluation mode of a model for the time of a call, also where several threads call at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["evaluating"]


class _Users:
    """How many calls evaluate a model at the moment, and which layers trained before the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.layers: list[nn.Module] = []


_LOCK = threading.Lock()
_USERS: WeakKeyDictionary[nn.Module, _Users] = WeakKeyDictionary()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule is in the mode in which it was.

    The mode is a flag of the model that all threads see: the last of several calls at once brings it back, not the first.

    Args:
        model: of any kind.
    """
    with _LOCK:
        users = _USERS.setdefault(model, _Users())
        users.count += 1
        training = [layer for layer in model.modules() if layer.training]
        if training:
            users.layers += training
            model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _LOCK:
            users.count -= 1
            if not users.count:
                for layer in users.layers:
                    layer.training = True
                del _USERS[model]
