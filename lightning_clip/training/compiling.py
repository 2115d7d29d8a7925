"""Towers compiled block by block: equal blocks share one compilation, which takes seconds instead of minutes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders.base import TextEncoder, Tower
from lightning_clip.model.space import SharedSpace

__all__ = ["LEAST_STEPS", "LEAST_WEIGHTS", "compile_for_run", "compile_tower", "pays"]

log = logging.getLogger(__name__)
_FORMS = 64

# From where on compiling pays on a GPU: a compilation of at most a minute against a sixth of each step (docs/benchmarks.md).
LEAST_WEIGHTS, LEAST_STEPS = 20_000_000, 2000


def compile_tower(tower: Tower, training_only: bool = False) -> None:
    """Compiles each of a tower's blocks in place, or the whole tower where it has none; names of parameters stay.

    Blocks of one class and shape are one compilation, whatever their number. The last block, where it computes only the one
    token that is read, is left as it is: a compilation of its own would take as long as that of all others. Those of a text
    tower take any number of captions of any length from the start: the chunks that captions are sorted into differ in each
    batch. Hooks are called outside of what is compiled.

    Args:
        tower: an encoder; what its `blocks()` names is compiled.
        training_only: passes without gradient are left as they are, which saves their compilations.

    Examples:
        >>> from lightning_clip.encoders import text_encoders
        >>> tower = text_encoders.build({"name": "clip_text", "width": 32, "layers": 2, "heads": 2, "vocab_size": 100})
        >>> compile_tower(tower)
        >>> next(iter(tower.state_dict()))
        'positional_embedding'
    """
    import torch._dynamo  # here: it is slow to import

    # All compiled modules count against one limit, and each tower needs a few: training, evaluation, a rest of a batch.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _FORMS)
    failed: list[str] = []  # why, which holds for all blocks
    for part in tower.blocks() or [tower]:
        # Where torch keeps what a module's own compile() makes, which copies and pickles of the module omit.
        part._compiled_call_impl = _Compiled(part, isinstance(tower, TextEncoder), training_only, failed)  # type: ignore[assignment]


class _Compiled:
    """Calls a module, its forward compiled."""

    def __init__(self, module: nn.Module, any_length: bool, training_only: bool, failed: list[str]) -> None:
        self.module, self.any_length, self.training_only, self.failed = module, any_length, training_only, failed
        self.compiled: Callable[..., Any] = torch.compile(module.forward)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        plainly = named.get("read") is not None or (self.training_only and not torch.is_grad_enabled())
        if plainly or self.failed or "forward" in self.module.__dict__:
            return self.module._call_impl(*arguments, **named)  # type: ignore[no-untyped-call]
        self.module.__dict__["forward"] = self.forward
        try:
            return self.module._call_impl(*arguments, **named)  # type: ignore[no-untyped-call]
        finally:
            del self.module.__dict__["forward"]

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As the module's own, called between its hooks."""
        del self.module.__dict__["forward"]
        if self.any_length:
            _of_any_length(*arguments, *named.values())
        try:
            return self._compiled(*arguments, **named)
        finally:
            self.module.__dict__["forward"] = self.forward

    def _compiled(self, *arguments: Any, **named: Any) -> Any:
        """What nobody asked for by name falls back where a machine cannot compile it, say without a C compiler."""
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.compiled(*arguments, **named)
        except TorchDynamoException as error:
            if not self.training_only:
                raise
            self.failed.append(" ".join(str(error).split("\n")[:2]).strip() or type(error).__name__)
            log.warning("execution.compile 'auto' leaves a tower uncompiled; set it to false: %s", self.failed[0])
            return self.module.forward(*arguments, **named)


def _of_any_length(*values: Any) -> None:
    """Tells the compiler that rows and lengths differ from call to call, but not the width."""
    from torch._dynamo import maybe_mark_dynamic

    for value in values:
        if isinstance(value, tuple):  # of captions that are packed: numbers of tokens
            for part in value:
                if isinstance(part, Tensor):
                    maybe_mark_dynamic(part, 0)  # type: ignore[no-untyped-call]
        elif isinstance(value, Tensor):
            for place in range(min(2, value.ndim - 1)):
                maybe_mark_dynamic(value, place)  # type: ignore[no-untyped-call]


def pays(tower: Tower, device: torch.device, steps: float) -> bool:
    """Whether compiling a tower's blocks takes less time than it saves.

    Args:
        tower: with blocks of at least `LEAST_WEIGHTS` parameters together, trained or not.
        device: a CUDA device.
        steps: of the run, at least `LEAST_STEPS`.
    """
    weights = sum(parameter.numel() for block in tower.blocks() for parameter in block.parameters())
    return device.type == "cuda" and steps >= LEAST_STEPS and weights >= LEAST_WEIGHTS


def compile_for_run(model: SharedSpace, device: torch.device, steps: float) -> None:
    """Compiles the towers for which it `pays`, for passes of training; says which.

    Args:
        model: about to be trained.
        device: of its weights.
        steps: of the run.
    """
    found = [column for column in model.own_columns if pays(model.tower(column), device, steps)]
    if not found:
        return
    if not _has_compiler():
        log.warning("execution.compile 'auto' compiles nothing: Triton is not installed, or does not support %s", device)
        return
    for column in found:
        compile_tower(model.tower(column), training_only=True)
    log.info("execution.compile 'auto' compiles the blocks of %s", " and ".join(found))


def _has_compiler() -> bool:
    from torch.utils._triton import has_triton

    return bool(has_triton())
