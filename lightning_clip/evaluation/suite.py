"""`Suite`: sets and their protocols, as a YAML file has them, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import check_known
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.evaluation.protocols import Protocol, protocols

__all__ = ["Suite", "built_protocols"]


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
        for name, spec in self.sets.items():
            if not isinstance(spec, Mapping) or not spec.get("protocols"):
                raise InputError(f"set {name!r} of the suite has no protocols: give a list of {', '.join(protocols.names())}")
            for entry in spec["protocols"]:
                protocols.factory(entry if isinstance(entry, str) else entry.get("name", ""))

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
        return cls(**given)

    @classmethod
    def read(cls, path: str, **changes: Any) -> Suite:
        """A suite from its YAML file.

        Args:
            path: of the file.
            changes: settings that override the file's.

        Raises:
            InputError: no such file, no YAML, a setting that does not exist, or a plug-in that `--import` has to name.
        """
        return cls.parse({**read_mapping(path, "suite"), **changes})


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
