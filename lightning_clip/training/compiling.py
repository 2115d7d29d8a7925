"""Towers compiled block by block: equal blocks share one compilation, which takes seconds instead of minutes."""

from __future__ import annotations

from lightning_clip.encoders.base import TextEncoder, Tower

__all__ = ["compile_tower"]

_FORMS = 64


def compile_tower(tower: Tower) -> None:
    """Compiles each of a tower's blocks in place, or the whole tower where it has none; names of parameters stay.

    Blocks of one class and shape are one compilation, whatever their number; the last one is another where it computes only
    the token that is read. Those of a text tower take any length from
    the start: the chunks that captions are sorted into have another one in each batch.

    Args:
        tower: an encoder; what its `blocks()` names is compiled.

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
    dynamic = True if isinstance(tower, TextEncoder) else None
    for part in tower.blocks() or [tower]:
        part.compile(dynamic=dynamic)
