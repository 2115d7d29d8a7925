"""A suite: sets and protocols as a YAML file has them arrive, results leave, each kept so that nothing is measured twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_clip.errors import InputError, nearest
from lightning_clip.evaluation.extraction import extract
from lightning_clip.evaluation.models import EvaluatedModel
from lightning_clip.evaluation.protocols import Protocol, Result, protocols
from lightning_clip.evaluation.subject import CachedSubject, set_fingerprint
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["Failure", "Outcome", "Suite", "run_suite", "suite_subject"]

log = logging.getLogger(__name__)
_FORMAT = 1  # of kept results


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

        Raises:
            InputError: an unknown key.
        """
        known = list(cls.__dataclass_fields__)
        for key in given:
            if key not in known:
                raise InputError(f"the suite has no setting {key!r}: {nearest(str(key), known)}")
        if "sets" not in given:
            raise InputError("the suite has no sets: give at least one, with its protocols")
        return cls(**given)


@dataclass(frozen=True)
class Failure:
    """What could not be measured, and why."""

    model: str
    dataset: str
    protocol: str
    reason: str


@dataclass
class Outcome:
    """All results of a suite.

    Attributes:
        results: set -> protocol -> model -> result, in the order of the suite.
        datasets: set -> what it is.
        protocols: set -> protocol -> the object that measured.
        failures: what could not be measured.
        extracted: files of features that were made by this run; empty where all were there.
        images: set -> images of its test split.
    """

    results: dict[str, dict[str, dict[str, Result]]] = field(default_factory=dict)
    datasets: dict[str, EvaluationSet] = field(default_factory=dict)
    protocols: dict[str, dict[str, Protocol]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    extracted: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)


def run_suite(suite: Suite, models: Sequence[EvaluatedModel], progress: Callable[[str], None] = lambda text: None) -> Outcome:
    """Measures all models on all sets; what fails is listed, the rest goes on.

    Features and results are kept under the model's identity: a second run reads them, an interrupted one goes on.

    Args:
        suite: what is measured.
        models: each with a name of its own.
        progress: told in a few words what is done next.

    Raises:
        InputError: two models of one name.
    """
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise InputError(f"two models are called {max(names, key=names.count)!r}: give them names, NAME=PATH")
    outcome = Outcome()
    for name, spec in suite.sets.items():
        settings = dict(spec)
        wanted = dict(_built(settings.pop("protocols")))
        try:
            dataset = open_evaluation_set(settings)
        except (InputError, OSError) as error:
            progress(f"{name}: {error}")
            outcome.failures += [Failure(model, name, label, str(error)) for model in names for label in wanted]
            continue
        outcome.datasets[name], outcome.protocols[name] = dataset, wanted
        outcome.images[name] = len(dataset.source)
        for model in models:
            subject = suite_subject(suite, model, dataset, name, settings)
            for label, protocol in wanted.items():
                progress(f"{model.name}: {name}, {label}")
                result = _measured(suite, subject, label, protocol, outcome)
                if result is not None:
                    outcome.results.setdefault(name, {}).setdefault(label, {})[model.name] = result
            outcome.extracted += subject.extracted
    return outcome


def suite_subject(suite: Suite, model: EvaluatedModel, dataset: EvaluationSet, name: str, settings: Any) -> CachedSubject:
    """A model with a set of the suite, its features kept in the suite's cache.

    Args:
        suite: whose Trainer, loader and cache are used.
        model: what is evaluated.
        dataset: on what.
        name: of the set.
        settings: of the set as the suite has them, without its protocols; they tell its features from others.
    """
    cache = Path(suite.cache) if suite.cache else Path(suite.output) / "features"
    options = {"trainer": suite.trainer, "batch_size": suite.batch_size, "num_workers": suite.num_workers}
    return CachedSubject(
        model,
        dataset,
        name,
        cache,
        spec=settings,
        make=lambda images, path, classes: extract(model, images, path, num_classes=classes, **options),  # type: ignore[arg-type]
    )


def _built(entries: Sequence[Any]) -> Iterator[tuple[str, Protocol]]:
    """Protocols with a label of their own: the name, or `label` where one is used twice."""
    taken: set[str] = set()
    for entry in entries:
        settings = {"name": entry} if isinstance(entry, str) else dict(entry)
        label = settings.pop("label", settings["name"])
        if label in taken:
            raise InputError(f"protocol {label!r} is named twice for a set: give one of them another label")
        taken.add(label)
        yield label, protocols.build(settings)


def _measured(suite: Suite, subject: CachedSubject, label: str, protocol: Protocol, outcome: Outcome) -> Result | None:
    """The kept result or a new one; None if it failed, which is noted."""
    key = {
        "format": _FORMAT,
        "model": subject.model.identity,
        "set": set_fingerprint(subject.dataset.source, subject.spec),
        "protocol": type(protocol).__name__,
        "settings": {name: value for name, value in vars(protocol).items() if not name.startswith("_")},
    }
    names = (subject.model.name, subject.name, label)
    path = Path(suite.output) / "results" / ("--".join(map(_plain, names)) + ".json")
    kept = _kept(path, key)
    if kept is not None:
        return kept
    try:
        result = protocol.evaluate(subject)
    except Exception as error:  # a long suite goes on with what is left
        if not isinstance(error, InputError | OSError):
            log.warning("%s on %s: %s failed", *names, exc_info=True)
        outcome.failures.append(Failure(*names, str(error) or type(error).__name__))
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps({"key": key, "result": asdict(result)}, ensure_ascii=False, default=str))
    beside.replace(path)
    return _kept(path, key)


def _kept(path: Path, key: Mapping[str, Any]) -> Result | None:
    try:
        stored = json.loads(path.read_text())
        same = stored["key"] == json.loads(json.dumps(key, default=str))
        return Result(**stored["result"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or half of one: measured anew


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
