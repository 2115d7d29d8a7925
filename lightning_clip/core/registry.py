"""Names for pluggable things: a name, a mapping or an instance becomes an instance."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from lightning_clip.core.errors import InputError, UnknownName, nearest
from lightning_clip.core.plugins import load_installed
from lightning_clip.core.secrets import hidden
from lightning_clip.core.settings import check_kinds, declared

__all__ = ["LIVE", "Registry", "Spec"]

T = TypeVar("T")
Factory = Callable[..., Any]
Spec = str | Mapping[str, Any]
LIVE = "live object"  # in the place of "name", where a checkpoint notes an object that it cannot hold


class Registry(Generic[T]):
    """One kind of pluggable thing, by name.

    Args:
        kind: what it holds, as it reads in an error ("loss", "image encoder").
        fallback: asked for names that are not registered; returns a factory or None (any timm name, `hf:` names).

    Examples:
        >>> losses: Registry[object] = Registry("loss")
        >>> @losses.register("constant")
        ... class Constant:
        ...     def __init__(self, value: float = 1.0) -> None:
        ...         self.value = value
        >>> losses.build({"name": "constant", "value": 2.0}).value
        2.0
        >>> losses.describe(losses.build("constant"))
        {'name': 'constant', 'value': 1.0}

    Attributes:
        rooms: modules that register further names when they are imported, which is done before a name is said to be unknown.
    """

    rooms: ClassVar[list[str]] = []

    def __init__(self, kind: str, fallback: Callable[[str], Factory | None] | None = None) -> None:
        self.kind = kind
        self.fallback = fallback
        self._factories: dict[str, Factory] = {}

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Decorates a class or function so that `name` builds it."""

        def decorate(factory: Factory) -> Factory:
            other = self._factories.get(name, factory)
            if other is not factory and _defined(other) != _defined(
                factory
            ):  # a cell of a notebook that runs again is the same
                raise InputError(
                    f"{self.kind} {name!r} is registered twice, by {_defined(other)} and by {_defined(factory)}: rename one"
                )
            self._factories[name] = factory
            return factory

        return decorate

    def names(self) -> list[str]:
        """The registered names, sorted; those of installed plug-ins too."""
        load_installed()
        return sorted(self._factories)

    def factory(self, name: str) -> Factory:
        """The class or function behind a name.

        Raises:
            InputError: nothing has that name; the message lists the known ones and the nearest.
        """
        if name not in self._factories:
            load_installed()  # before a fallback, which may take any name
        found = self._known(name)
        while found is None and Registry.rooms:
            importlib.import_module(Registry.rooms.pop(0))
            found = self._known(name)
        if found is None:
            raise UnknownName.of(self.kind, name, self._factories)
        return found

    def build(self, spec: Any, **defaults: Any) -> T:
        """Turns a name, a mapping with "name" and settings, or an instance into an instance.

        Args:
            spec: what the user gave. An instance is handed back untouched.
            **defaults: settings used where the mapping does not give them and the factory takes them.

        Raises:
            InputError: unknown name or setting, a mapping without "name", or a checkpoint that held a live object.
        """
        if not isinstance(spec, str | Mapping):
            return spec  # type: ignore[no-any-return]
        settings = {"name": spec} if isinstance(spec, str) else dict(spec)
        if LIVE in settings:
            argument = self.kind.replace(" ", "_")
            raise InputError(
                f"the checkpoint was written with a live {settings[LIVE]} as {argument}, which it cannot hold: "
                f"pass it again, load_from_checkpoint(path, {argument}=...), or register the class under a name"
            )
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise InputError(f"{self.kind} {hidden(spec)!r} has no 'name': give one of {', '.join(self.names())}")  # type: ignore[arg-type]
        factory = self.factory(name)
        accepted = _parameters(factory)
        if accepted is not None:
            defaults = {key: value for key, value in defaults.items() if key in accepted}
            for key in settings:
                if key not in accepted:
                    raise InputError(f"{self.kind} {name!r} has no setting {key!r}: {nearest(key, accepted)}")
        check_kinds(settings, declared(factory), f"{self.kind} {name!r}")
        if missing := self.missing(name, settings.keys() | defaults.keys()):
            raise InputError(f"{self.kind} {name!r} needs {' and '.join(missing)}: add it to its settings")
        return factory(**{**defaults, **settings})  # type: ignore[no-any-return]

    def missing(self, name: str, given: Collection[str]) -> list[str]:
        """Names of the settings without which what has this name cannot be built, and which are not given."""
        return [key for key in _needed(self.factory(name)) if key not in given]

    def _known(self, name: str) -> Factory | None:
        return self._factories.get(name) or (self.fallback(name) if self.fallback else None)

    def describe(self, item: Any) -> dict[str, Any]:
        """A plain mapping that builds `item` again, for checkpoints.

        Registered classes keep their constructor's arguments as attributes of the same name. Anything else is described
        by its class only, and `build` then asks the user to pass it again.
        """
        for name, factory in self._factories.items():
            if type(item) is factory:
                return {"name": name, **{key: getattr(item, key) for key in _parameters(factory) or ()}}
        return {LIVE: type(item).__name__}


def _defined(factory: Factory) -> str:
    """Where a class or function is defined."""
    return f"{factory.__module__}.{getattr(factory, '__qualname__', '')}"


def _needed(factory: Factory) -> list[str]:
    """Names of parameters without a default."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(factory).parameters.values()
    return [entry.name for entry in found if entry.kind in kinds and entry.default is entry.empty]


def _parameters(factory: Factory) -> list[str] | None:
    """Names a factory takes, or None if it takes any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
