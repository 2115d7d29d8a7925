"""A bound on the tensors of a model while it is built: a file may claim millions of layers, and each takes time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["TooManyTensors", "at_most_tensors"]


class TooManyTensors(Exception):
    """More tensors than allowed."""


@contextmanager
def at_most_tensors(count: int) -> Iterator[None]:
    """While it lasts, this thread builds no modules of more parameters.

    Args:
        count: of tensors, whatever their sizes.

    Raises:
        TooManyTensors: as soon as there is one more.

    Examples:
        >>> from torch import nn
        >>> with at_most_tensors(3):
        ...     _ = nn.Linear(2, 2)
        ...     _ = nn.Linear(2, 2)
        Traceback (most recent call last):
        lightning_clip.core.tensor_count.TooManyTensors: more than 3 tensors
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    made, thread = 0, threading.get_ident()

    def counted(module: Any, name: str, value: Any) -> None:
        nonlocal made
        if threading.get_ident() == thread and value is not None:
            made += 1
            if made > count:
                raise TooManyTensors(f"more than {count} tensors")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
