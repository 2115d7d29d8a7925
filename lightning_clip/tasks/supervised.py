"""`SupervisedModule`: what the modules that learn classes have in common, beside their objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.model.predictor import ImageInput
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.objectives import Objective, each_objective
from lightning_clip.tasks.class_objective import ClassObjective

__all__ = ["SupervisedModule", "classes_of", "with_settings"]


class SupervisedModule(ClipModule):
    """A `ClipModule` that learns the classes of labelled images by a `ClassObjective`; subclasses name it.

    A `ClassObjective` of your own needs no subclass: `ClipModule(objective=Mine(...))`, or by its registered name.
    """

    @property
    def classes(self) -> ClassObjective:
        """What is learned of classes."""
        found = classes_of(self.objective)
        assert found is not None
        return found

    @property
    def class_names(self) -> list[str] | None:
        """In the order of the labels; None until the data tells them."""
        return self.classes.class_names

    def score_classes(self, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Logits (B, C) in evaluation mode, without gradients.

        Args:
            images: as for `encode_image`.
            batch_size: images encoded at a time, at least 1.
        """
        return self.classes.scores(self.predictor, images, batch_size)

    @classmethod
    def objective_of(cls, name: str, given: Any, settings: Mapping[str, Any]) -> Any:
        """The objective of this module from what a checkpoint stored, or None, and settings that the user gave."""
        return with_settings(name, given, settings, cls.__name__)


def classes_of(objective: Objective) -> ClassObjective | None:
    """What of an objective learns classes, if anything does.

    Args:
        objective: of a module; one, or a sum of several.
    """
    return next((term for term in each_objective(objective) if isinstance(term, ClassObjective)), None)


def with_settings(name: str, given: Any, settings: Mapping[str, Any], module: str) -> Any:
    """The objective that a module for people stands for, as a mapping or a list of such.

    Args:
        name: of the objective.
        given: what the module's `objective` was: None, or what a checkpoint stored: a mapping with that name, or a list with
            one such; its settings are taken where `settings` does not say.
        settings: the module's own arguments, None meaning not given.
        module: its class, for the error.

    Raises:
        InputError: an objective of another name.

    Examples:
        >>> with_settings("classes", {"name": "classes", "head_only": True}, {"templates": "plain"}, "ClassifierModule")
        {'name': 'classes', 'head_only': True, 'templates': 'plain'}
    """
    said = {key: value for key, value in settings.items() if value is not None}
    if given is None:
        return {"name": name, **said}
    several = list(given) if isinstance(given, list | tuple) else [given]
    own = [entry for entry in several if isinstance(entry, Mapping) and entry.get("name") == name]
    if not own:
        raise InputError(
            f"{module} learns by objective {name!r}, not by {given!r}: omit objective, or use ClipModule(objective=...)"
        )
    merged = [{**entry, **said} if entry in own else entry for entry in several]
    return merged if isinstance(given, list | tuple) else merged[0]
