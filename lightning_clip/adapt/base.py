"""The weights that a run begins with, as far as they can be reloaded from where they came."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from lightning_clip.encoders.new_tokens import without_new_tokens

__all__ = ["Base", "known_base"]

_TOWERS = ("image_encoder", "text_encoder")


@dataclass(frozen=True)
class Base:
    """The weights that a run begins with, as far as they can be reloaded.

    Args:
        source: what the user called them; None where they have no name.
        names: of the weights that come from there.
        towers: beginnings of the names of towers that bring their weights themselves.
        arguments: of `ClipModule`, which bring these weights again.
    """

    source: str | None = None
    names: frozenset[str] = frozenset()
    towers: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether a weight comes from there; adapters around it and new tokens beside it change its name, not the weight."""
        name = without_new_tokens(name.replace(".base_layer.", "."))
        return name in self.names or name.startswith(self.towers)


def known_base(given: Mapping[str, Any], weights: Collection[str]) -> Base:
    """What the arguments say about the weights.

    Args:
        given: "pretrained", "image_encoder" and "text_encoder" as the user gave them.
        weights: names of those that `pretrained` brings.

    Examples:
        >>> known_base({"pretrained": None, "image_encoder": "resnet50", "text_encoder": "hf:bert-base-chinese"}, []).towers
        ('text_encoder.',)
    """
    named = {tower: given[tower] for tower in _TOWERS if _brings_weights(given[tower])}
    arguments: dict[str, Any] = {tower: dict(spec) if isinstance(spec, Mapping) else spec for tower, spec in named.items()}
    source = ", ".join(map(_name_of, named.values())) or None
    if (pretrained := given["pretrained"]) is not None:
        plain = _plain(pretrained)
        source = plain["source"] if isinstance(plain, dict) else plain
        arguments |= {"pretrained": plain, **{tower: None for tower in _TOWERS if given[tower] is None}}
    return Base(source, frozenset(weights), tuple(f"{tower}." for tower in named), arguments)


def _name_of(spec: Any) -> str:
    """What a user called a tower's weights."""
    return spec if isinstance(spec, str) else str(spec.get("path") or spec["name"])


def _plain(pretrained: Any) -> dict[str, Any] | str:
    """A source as a mapping or as text."""
    if is_dataclass(pretrained) and not isinstance(pretrained, type):
        return asdict(pretrained)
    return dict(pretrained) if isinstance(pretrained, Mapping) else str(pretrained)


def _brings_weights(spec: Any) -> bool:
    """Whether a tower's name is one of published weights, not of an architecture alone."""
    settings = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(settings, Mapping):
        return False
    name = str(settings.get("name", ""))
    if name.startswith("hf:") or (name == "hf" and settings.get("path")):
        return settings.get("pretrained", True) is not False
    return settings.get("pretrained") is True
