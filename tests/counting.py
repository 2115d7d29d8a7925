"""torch's own counter of FLOPs, which tests compare with."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode


def library_counter() -> FlopCounterMode:
    """With torch's formulas for attention on GPUs also for attention on CPUs, which the counter of some versions leaves out."""
    aten, counter = torch.ops.aten, FlopCounterMode(display=False)
    formulas = counter.flop_registry
    missing = {
        aten._scaled_dot_product_flash_attention_for_cpu: formulas[aten._scaled_dot_product_flash_attention],
        aten._scaled_dot_product_flash_attention_for_cpu_backward: formulas[aten._scaled_dot_product_flash_attention_backward],
    }
    counter.flop_registry = {**missing, **formulas}
    return counter
