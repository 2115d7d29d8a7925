"""`Suite`: sets and their protocols, as a YAML file has them, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import check_kinds, check_known, in_range, mapping
from lightning_clip.core.shipped import shipped_recipe
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.evaluation.protocols import Protocol, protocols
from lightning_clip.evaluation.shipped import BUILT_IN, downloading

__all__ = ["BUILT_IN", "Suite", "built_protocols"]


@dataclass
class Suite:
    """What is measured.

    Args:
        sets: name -> a set as `open_evaluation_set` takes it, with `protocols`, a list of names and mappings.
        output: folder of the report and the results.
        cache: folder of the features; None for `features` in the output.
        batch_size: images at a time on each device.
        num_workers: loader processes of each rank.
        trainer: arguments of the Trainer that extracts features: devices, accelerator, strategy, precision.

    Raises:
        InputError: no set, a set without protocols, or a protocol that does not exist.
    """

    sets: Mapping[str, Mapping[str, Any]]
    output: str = "evaluation"
    cache: str | None = None
    batch_size: int = 256
    num_workers: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sets:
            raise InputError("the suite has no sets: give at least one, with its protocols")
        if not isinstance(self.sets, Mapping):
            raise InputError(f"the suite's sets {self.sets!r} must be a mapping: the name of a set, then what it is")
        in_range("the suite's batch_size", self.batch_size, 1, whole=True)
        in_range("the suite's num_workers", self.num_workers, 0, whole=True)
        for name, spec in self.sets.items():
            _check_set(name, spec)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Suite:
        """A suite from a plain mapping.

        Args:
            given: arguments of `Suite`.

        Raises:
            InputError: an unknown key, or no sets.
        """
        check_known(given, cls.__dataclass_fields__, "the suite")
        if "sets" not in given:
            raise InputError("the suite has no sets: give at least one, with its protocols")
        check_kinds(given, get_type_hints(cls), "the suite")
        return cls(**{**given, "trainer": mapping(given.get("trainer"), "the suite's trainer")})

    @classmethod
    def read(cls, path: str, **changes: Any) -> Suite:
        """A suite from its YAML file, or a built-in one.

        Args:
            path: of the file, a name of `BUILT_IN` where there is no such file, or the name of a recipe that ships with the
                package, such as "evaluation/scenes".
            changes: settings that override the file's.

        Raises:
            InputError: no such file, no YAML, a setting that does not exist, or a plug-in that `--import` has to name.
        """
        built_in = path in BUILT_IN and not Path(path).exists()
        if not built_in and not Path(path).exists() and not Path(path).suffix and shipped_recipe(path) is None:
            raise InputError(f"suite {path!r} is neither a file nor a suite by name: {nearest(path, BUILT_IN)}")
        return cls.parse({**(BUILT_IN[path]() if built_in else read_mapping(path, "suite")), **changes})

    def fetching(self) -> Suite:
        """The same suite, whose sets are downloaded where they are not there and can be."""
        return replace(self, sets=downloading(self.sets))


def _check_set(name: Any, spec: Any) -> None:
    """Refuses a set whose name, protocols or splits are of another kind than they must be."""
    where = f"set {name!r} of the suite"
    if not isinstance(name, str):
        raise InputError(f"{where} must have a name that is text: put it in quotes")
    if not isinstance(spec, Mapping) or not spec.get("protocols"):
        raise InputError(f"{where} has no protocols: give a list of {', '.join(protocols.names())}")
    if not all(isinstance(key, str) for key in spec):
        raise InputError(f"{where} has settings {list(spec)!r}, of which all must be text")
    if not isinstance(spec["protocols"], list | tuple):
        raise InputError(f"{where} has protocols {spec['protocols']!r}: give a list of {', '.join(protocols.names())}")
    for entry in spec["protocols"]:
        if isinstance(entry, str):
            protocols.factory(entry)
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InputError(f"{where} has protocol {entry!r}: give a name, or a mapping with 'name' and its settings")
        if not isinstance(entry.get("label", ""), str):
            raise InputError(f"{where} has protocol {entry['name']!r} with label {entry['label']!r}, which must be text")
        protocols.factory(entry["name"])


def built_protocols(entries: Sequence[Any]) -> Iterator[tuple[str, Protocol]]:
    """Protocols with a label of their own: the name, or `label` where one is used twice.

    Args:
        entries: names, or mappings with `name` and settings.

    Raises:
        InputError: a label twice, or a wrong setting.
    """
    taken: set[str] = set()
    for entry in entries:
        settings = {"name": entry} if isinstance(entry, str) else dict(entry)
        label = settings.pop("label", settings["name"])
        if label in taken:
            raise InputError(f"protocol {label!r} is named twice for a set: give one of them another label")
        taken.add(label)
        yield label, protocols.build(settings)
