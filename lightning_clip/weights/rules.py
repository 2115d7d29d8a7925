"""Tables of names in two libraries, of weights and of settings, each read both ways, so that in and out cannot disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.checkpoints.fit import groups
from lightning_clip.core.errors import InputError

__all__ = ["Rule", "SettingsTable", "below", "renamed", "same_names", "to_ours", "to_theirs"]


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
    """Weights under our names; what no rule mentions is omitted.

    Args:
        rules: the table.
        weights: by the other library's names.
        name: of the source, for messages.

    Raises:
        InputError: weights that the table names and the source lacks.
    """
    table = list(rules)
    if missing := [key for rule in table for key in rule.theirs if key not in weights]:
        raise InputError(f"{name!r} lacks {len(missing)} weights: {groups(missing)}. Is it complete, and of this architecture?")
    return {rule.ours: _ours(rule, [weights[key] for key in rule.theirs]) for rule in table}


def _ours(rule: Rule, parts: list[Tensor]) -> Tensor:
    value = torch.cat(parts) if len(parts) > 1 else parts[0]  # n x (R, ...) -> (n R, ...)
    value = value.T.contiguous() if rule.transposed else value
    if rule.rows is not None:
        first, end, every = rule.rows
        value = value[len(value) * first // every : len(value) * end // every].clone()
    return value.reshape((1,) * rule.lead + tuple(value.shape))


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


@dataclass(frozen=True)
class SettingsTable:
    """Settings of a tower of ours and what another library calls them.

    Args:
        names: ours -> theirs.
        values: by our name, each value of ours with theirs, for settings that are written in other words.
        always: what theirs say beside, whatever ours are.

    Examples:
        >>> table = SettingsTable({"width": "hidden_size", "quick": "act"}, {"quick": {True: "quick_gelu", False: "gelu"}})
        >>> table.to_theirs({"width": 8, "quick": True})
        {'hidden_size': 8, 'act': 'quick_gelu'}
        >>> table.to_ours({"hidden_size": 8, "act": "quick_gelu", "seed": 0})
        {'width': 8, 'quick': True}
        >>> table.holds({"hidden_size": 8, "act": "relu"})
        False
    """

    names: Mapping[str, str]
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)

    def to_theirs(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Their settings from ours, which may hold others beside."""
        found = {other: self.values[own][ours[own]] if own in self.values else ours[own] for own, other in self.names.items()}
        return {**found, **self.always}

    def to_ours(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Our settings from theirs, which may hold others beside; for settings that the table `holds`."""
        return {own: self._ours(own, theirs[other]) for own, other in self.names.items()}

    def holds(self, theirs: Mapping[str, Any]) -> bool:
        """Whether ours can say the same: every value is a known one, and what is always so is so, or is not mentioned."""
        known = all(theirs[self.names[own]] in values.values() for own, values in self.values.items())
        return known and all(theirs.get(key, value) == value for key, value in self.always.items())

    def _ours(self, own: str, value: Any) -> Any:
        return {theirs: ours for ours, theirs in self.values[own].items()}[value] if own in self.values else value
