"""Whole weights on each rank for evaluation under ZeRO's third stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["gathered_weights"]


@contextmanager
def gathered_weights(engine: Any) -> Iterator[None]:
    """Gathers all weights once and switches off the hooks that gather and release them in each pass.

    Those hooks are collectives: ranks that make different numbers of passes would wait for each other.
    """
    import deepspeed

    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    # Those of the last pass may still be whole; all are to be gathered alike.
    offload.get_param_coordinator().release_and_reset_all(engine.module)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        offload._remove_module_hooks()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
