"""Labelled sets for zero-shot evaluation: a name, a path or a mapping arrives, an `EvaluationSet` leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.errors import InputError
from lightning_clip.prompts.templates import resolve_templates
from lightning_clip.registry import Registry

__all__ = ["EvaluationSet", "evaluation_sets", "open_evaluation_set"]

evaluation_sets: Registry[EvaluationSet] = Registry("evaluation set")


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images with the words for their classes.

    Args:
        source: pairs whose `label` indexes `class_names`.
        class_names: one per class, in the order of the labels.
        templates: prompts with one {}, averaged in embedding space.
    """

    source: PairSource
    class_names: Sequence[str]
    templates: Sequence[str]


def open_evaluation_set(spec: str | Mapping[str, Any] | EvaluationSet) -> EvaluationSet:
    """Opens a registered evaluation set or any pair source with labels.

    Args:
        spec: a registered name, a path (class folders, shards with .cls, a table), or a mapping that also may give
            `class_names` (a list, in the order of the labels) and `templates` (a set's name, one template or a list).

    Raises:
        InputError: unknown name, missing path, or no class names to be found.
    """
    if isinstance(spec, EvaluationSet):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    if settings.get("name") in evaluation_sets.names():
        return evaluation_sets.build(settings)
    templates = resolve_templates(settings.pop("templates", "simple"))
    class_names = settings.pop("class_names", None)
    source = pair_sources.build(settings)
    own = list(getattr(source, "class_names", []))
    if not own and not class_names:
        raise InputError(f"evaluation set {spec!r} does not know its class names: give class_names, in the order of its labels")
    if own and class_names and len(class_names) != len(own):
        raise InputError(f"class_names has {len(class_names)} entries but {spec!r} has {len(own)} classes: {', '.join(own)}")
    return EvaluationSet(source, list(class_names or own), templates)
