"""Settings of adaptation: what is trained, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_clip.adapt.towers import ImageAdapt, Lock, TextAdapt, TowerAdapt, tower_of
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, in_range, mapping, plain

__all__ = ["AdaptSettings", "Stage"]

_STORES = ("auto", "full", "trained")


@dataclass(frozen=True)
class Stage:
    """A stretch of the run in which other locks hold than afterwards.

    Args:
        until_step: the optimizer step with which it ends, counted over the whole run.
        until_epoch: or the epoch with which it ends.
        image: the image tower's locks meanwhile; None leaves them as they are in the end.
        text: likewise.
    """

    until_step: int | None = None
    until_epoch: int | None = None
    image: Lock | None = None
    text: Lock | None = None

    def check(self, where: str) -> None:
        """Raises an InputError for values out of range."""
        if (self.until_step is None) == (self.until_epoch is None):
            raise InputError(f"{where} must say either until_step or until_epoch")
        in_range(f"{where}.until", self.until_step if self.until_epoch is None else self.until_epoch, 1, whole=True)
        for name in ("image", "text"):
            if (lock := getattr(self, name)) is not None:
                lock.check(f"{where}.{name}")


@dataclass(frozen=True)
class AdaptSettings:
    """What of a model is trained, in plain types, so that a recipe can say and a checkpoint can hold it.

    Args:
        image: of the image tower.
        text: of the text tower.
        others: of towers of further columns, by column; `adapt.others` in a recipe.
        stages: stretches at the beginning of the run with other locks, in order (Chinese-CLIP, Yang et al. 2022).
        store: what checkpoints hold: "full" weights, or only those that were "trained", which need the weights that the run
            began with to be read again; "auto" takes "trained" where there are adapters.

    Raises:
        InputError: an unknown setting, or a value out of range.

    Examples:
        >>> settings = AdaptSettings.of({"image": {"lock": True}, "text": {"lr": 1e-4}})
        >>> settings.image.lock, settings.text.lock
        (True, False)
    """

    image: ImageAdapt = field(default_factory=ImageAdapt)
    text: TextAdapt = field(default_factory=TextAdapt)
    others: Mapping[str, TowerAdapt] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    store: str = "auto"

    def __post_init__(self) -> None:
        self.image.check("adapt.image")
        self.text.check("adapt.text")
        for column, tower in self.others.items():
            tower.check(f"adapt.others.{column}")
        if self.store not in _STORES:
            raise InputError(f"unknown adapt.store {self.store!r}: {nearest(str(self.store), _STORES)}")
        for number, stage in enumerate(self.stages):
            stage.check(f"adapt.stages[{number}]")
        for kind in ("until_step", "until_epoch"):
            ends = [getattr(stage, kind) for stage in self.stages]
            if any(end is None for end in ends) and not all(end is None for end in ends):
                raise InputError("adapt.stages count either all in steps (until_step) or all in epochs (until_epoch)")
            if None not in ends and sorted(set(ends)) != ends:
                raise InputError(f"adapt.stages end at {ends}: {kind} must rise from stage to stage")
        if self.image.cache is not None and any(stage.image is not None for stage in self.stages):
            raise InputError("adapt.image.cache needs an image tower that is locked throughout: take image out of adapt.stages")

    @classmethod
    def of(cls, value: AdaptSettings | Mapping[str, Any] | None) -> AdaptSettings:
        """Settings from settings, a mapping, or None for an ordinary training."""
        if isinstance(value, cls):
            return value
        given = mapping(value, "adapt")
        if "image" in given:
            given["image"] = tower_of(ImageAdapt, given["image"], "adapt.image")
        if "text" in given:
            given["text"] = tower_of(TextAdapt, given["text"], "adapt.text")
        others = mapping(given.get("others"), "adapt.others")
        given["others"] = {column: tower_of(TowerAdapt, spec, f"adapt.others.{column}") for column, spec in others.items()}
        if given.get("stages") is not None:
            stages = given["stages"]
            if not isinstance(stages, list | tuple):
                raise InputError(f"adapt.stages {stages!r} must be a list of stages")
            given["stages"] = tuple(_stage(stage, f"adapt.stages[{number}]") for number, stage in enumerate(stages))
        return built(cls, {key: item for key, item in given.items() if item is not None}, "adapt")

    def to_mapping(self) -> dict[str, Any] | None:
        """Plain types that `of` reads; None for an ordinary training."""
        return None if self == AdaptSettings() else plain(asdict(self))

    @property
    def ordinary(self) -> bool:
        """Whether everything is trained as without these settings."""
        return self == AdaptSettings()

    @property
    def towers(self) -> dict[str, TowerAdapt]:
        """By name."""
        return {"image": self.image, "text": self.text, **self.others}

    @property
    def tokens_apart(self) -> bool:
        """Whether new tokens are learned while the old ones are still, in some stage at least."""
        locks = [self.text, *(stage.text for stage in self.stages if stage.text is not None)]
        return bool(self.text.new_tokens) and (self.text.lora is not None or any(lock.lock for lock in locks))

    @property
    def stores_trained_only(self) -> bool:
        """Whether checkpoints leave out what was not trained."""
        return self.store == "trained" or (self.store == "auto" and any(tower.lora for tower in self.towers.values()))


def _stage(value: Any, where: str) -> Stage:
    if isinstance(value, Stage):
        return value
    given = mapping(value, where)
    for name in ("image", "text"):
        if given.get(name) is not None and not isinstance(given[name], Lock):
            given[name] = built(Lock, mapping(given[name], f"{where}.{name}"), f"{where}.{name}")
    return built(Stage, given, where)
