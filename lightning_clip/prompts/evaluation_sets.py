"""`EvaluationSet`: labelled images or captioned ones to evaluate on, from a name, a path or a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.core.secrets import hidden
from lightning_clip.core.settings import check_kinds, mapping
from lightning_clip.data.decoding import decode
from lightning_clip.data.of_classes import OfClasses
from lightning_clip.data.pixel_values import CONVENTION, PixelReading
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["EvaluationSet", "evaluation_sets", "open_evaluation_set"]

evaluation_sets: Registry[EvaluationSet] = Registry("evaluation set")


@dataclass(frozen=True)
class EvaluationSet:
    """Images to evaluate on: with labels and the words for their classes, or with captions for retrieval.

    Args:
        source: the test split; a pair's `label` indexes `class_names`, or its metadata has "labels", a list of indices.
        class_names: one per class, in the order of the labels, or several names of a class; empty where there are no classes.
        templates: prompts with one {}, averaged in embedding space.
        train: the training split, for probes and few-shot.
        val: the validation split; None takes a part of the training split where one is needed.
        multilabel: an image may have several classes or none.
        parents: of a set that is a shift of another, such as ImageNet-R: for each class its classes in that other set, by
            number; None where the names of the classes tell.
        reading: what is shown of files with more than 8 bits or three bands: evaluation gives that of the model.
    """

    source: PairSource
    class_names: Sequence[str | Sequence[str]]
    templates: Sequence[str]
    train: PairSource | None = None
    val: PairSource | None = None
    multilabel: bool = False
    parents: Sequence[Sequence[int]] | None = None
    reading: PixelReading = CONVENTION

    @property
    def names(self) -> list[str]:
        """One name per class."""
        return [name if isinstance(name, str) else name[0] for name in self.class_names]

    def picture(self, place: int) -> Tensor:
        """A picture of the test split as uint8 (3, H, W), through `reading`.

        Args:
            place: in the source.

        Raises:
            OSError: it cannot be reached.
            ValueError: it is none, as `decode` says.
        """
        return decode(self.source[place].image, self.reading)


def open_evaluation_set(spec: str | Mapping[str, Any] | EvaluationSet) -> EvaluationSet:
    """Opens a registered evaluation set or any pair source with labels.

    Args:
        spec: a registered name, a path (class folders, shards with .cls, a table), or a mapping that also may give
            `class_names` (a list, in the order of the labels), `templates` (a set's name, one template or a list), `prompts` (a
            file with either), `train` and `val` (sources, or what differs from the test split), `multilabel`, and `retrieval`
            (captions and no classes).

    Raises:
        InputError: unknown name, missing path, or no class names to be found.
    """
    if isinstance(spec, EvaluationSet):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else mapping(spec, "evaluation set")
    if settings.get("name") in evaluation_sets.names():
        return _whole(evaluation_sets.build(settings))
    class_names, templates = _words(settings)
    splits = {split: settings.pop(split) for split in ("train", "val") if settings.get(split) is not None}
    flags: dict[str, Any] = {name: settings.pop(name, False) for name in ("multilabel", "retrieval")}
    check_kinds(flags, {"multilabel": bool, "retrieval": bool}, f"evaluation set {settings.get('name')!r}")
    multilabel, retrieval = flags["multilabel"], flags["retrieval"]
    source = pair_sources.build(settings)
    others: dict[str, Any] = {split: pair_sources.build(_split(settings, given)) for split, given in splits.items()}
    if retrieval:
        return _whole(EvaluationSet(source, list(class_names or ()), templates, **others))
    names = _names(list(source.class_names), class_names, spec)
    if not multilabel:
        others = {split: _as_labelled(other, source, split) for split, other in others.items()}
    return _whole(EvaluationSet(source, names, templates, **others, multilabel=multilabel))


def _as_labelled(other: PairSource, source: PairSource, split: str) -> PairSource:
    """A split whose labels count the classes of the test split, by name."""
    own, theirs = list(other.class_names), list(source.class_names)
    return OfClasses(other, theirs, split) if own and theirs and own != theirs else other


def _whole(found: EvaluationSet) -> EvaluationSet:
    """A figure of what is left of a set would be taken for one of the set."""
    if isinstance(found.source, PairSource) and (lost := found.source.lost()):
        raise InputError(
            f"about {sum(lost.values())} samples of the evaluation set cannot be read ({'; '.join([*lost][:3])}): it is "
            "measured as a whole or not at all, so mend the address or its storage_options"
        )
    return found


def _names(own: list[str], given: list[Any] | None, spec: Any) -> list[Any]:
    """The class names that were given, or those the source knows itself."""
    if not own and not given:
        raise InputError(
            f"evaluation set {hidden(spec)!r} does not know its class names: give class_names, in the order of its labels"
        )
    if own and given and len(given) != len(own):
        raise InputError(f"class_names has {len(given)} entries but {hidden(spec)!r} has {len(own)} classes: {', '.join(own)}")
    return list(given or own)


def _words(settings: dict[str, Any]) -> tuple[list[Any] | None, list[str]]:
    """Class names, if given, and templates; what says so leaves the settings."""
    names, templates = settings.pop("class_names", None), settings.pop("templates", None)
    if (path := settings.pop("prompts", None)) is not None:
        from lightning_clip.prompts.sets.user_files import read_prompt_file  # here: sets import this file

        of_file, patterns = read_prompt_file(path)
        names, templates = names or of_file or None, templates or patterns or None
    if names is not None and not (isinstance(names, list | tuple) and all(map(_is_class, names))):
        raise InputError(f"class_names {names!r} must be a list of names, or of lists of names of a class: put them in quotes")
    return None if names is None else list(names), resolve_templates(templates or "simple")


def _is_class(entry: Any) -> bool:
    several = entry if isinstance(entry, list | tuple) else [entry]
    return bool(several) and all(isinstance(name, str) for name in several)


def _split(settings: Mapping[str, Any], given: Any) -> Any:
    """Another split: a source of its own, or what differs from the test split, such as {"where": {"split": "train"}}."""
    if isinstance(given, Mapping) and "name" not in given:
        return {**settings, **given}
    return given
