"""Names of weights in two libraries: a table of rules arrives and reads both ways, so that in and out cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError

__all__ = ["Rule", "below", "renamed", "same_names", "to_ours", "to_theirs"]


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and what it is called elsewhere.

    Args:
        ours: name in `ClipModel`.
        theirs: name in the other library; several names are parts that ours holds in a row (query, key, value).
        lead: dimensions of length 1 that only ours has in front.
        transposed: the other library keeps the matrix transposed.
        rows: (first, end, all), where ours is some of the equal parts of what the other library holds in a row; those that
            make up one tensor follow each other in a table.
    """

    ours: str
    theirs: tuple[str, ...]
    lead: int = 0
    transposed: bool = False
    rows: tuple[int, int, int] | None = None


def renamed(ours: str, theirs: str, names: Mapping[str, str], ends: Iterable[str] = ("weight", "bias")) -> list[Rule]:
    """Rules for parts of the same shape: {"norm1": "ln_1"} under two prefixes, each with `weight` and `bias`."""
    ends = list(ends)
    return [Rule(f"{ours}{own}.{end}", (f"{theirs}{other}.{end}",)) for own, other in names.items() for end in ends]


def same_names(ours: str, theirs: str, module: nn.Module) -> list[Rule]:
    """Rules for a module that both sides hold as it is."""
    return [Rule(ours + key, (theirs + key,)) for key in module.state_dict()]


def below(rules: Iterable[Rule], ours: str, theirs: str) -> list[Rule]:
    """Rules for what `rules` make below a prefix, held by the other library as it is."""
    return [Rule(rule.ours, (theirs + rule.ours.removeprefix(ours),)) for rule in rules if rule.ours.startswith(ours)]


def to_ours(rules: Iterable[Rule], weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under our names; what no rule mentions is left out.

    Args:
        rules: the table.
        weights: by the other library's names.
        name: of the source, for messages.

    Raises:
        InputError: weights that the table names and the source lacks.
    """
    table = list(rules)
    if missing := [key for rule in table for key in rule.theirs if key not in weights]:
        from lightning_clip.checkpoints.fit import groups

        raise InputError(f"{name!r} lacks {len(missing)} weights: {groups(missing)}. Is it complete, and of this architecture?")
    found = {}
    for rule in table:
        value = torch.cat([weights[key] for key in rule.theirs]) if len(rule.theirs) > 1 else weights[rule.theirs[0]]
        value = value.T.contiguous() if rule.transposed else value
        if rule.rows is not None:
            first, end, every = rule.rows
            value = value[len(value) * first // every : len(value) * end // every].clone()
        found[rule.ours] = value.reshape((1,) * rule.lead + tuple(value.shape))
    return found


def to_theirs(rules: Iterable[Rule], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other library's weights from ours: the inverse of `to_ours`, bit by bit.

    Examples:
        >>> rules = [Rule("head", ("proj",), transposed=True), Rule("qkv", ("q", "k")), Rule("scale", ("scale",), lead=1)]
        >>> rules += [Rule("first", ("all",), rows=(0, 1, 3)), Rule("rest", ("all",), rows=(1, 3, 3))]
        >>> theirs = {"proj": torch.randn(2, 3), "q": torch.randn(2), "k": torch.randn(2), "scale": torch.tensor(1.0)}
        >>> theirs["all"] = torch.randn(6, 2)
        >>> again = to_theirs(rules, to_ours(rules, theirs, "test"))
        >>> all(torch.equal(again[key], theirs[key]) for key in theirs)
        True
    """
    found: dict[str, Tensor] = {}
    for rule in rules:
        value = weights[rule.ours].detach().cpu()
        value = value.reshape(value.shape[rule.lead :])
        value = value.T if rule.transposed else value
        if rule.rows is not None and rule.rows[0] > 0:
            value = torch.cat([found[rule.theirs[0]], value])
        parts = value.chunk(len(rule.theirs)) if len(rule.theirs) > 1 else (value,)
        # Cloned, because a safetensors file refuses parts of one tensor.
        for key, part in zip(rule.theirs, parts, strict=True):
            found[key] = part.clone(memory_format=torch.contiguous_format)
    return found
