"""Runs of a suite: models on sets by protocols -> results, each kept so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.atomic import beside, safe_name
from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.cached_features import CachedSubject, set_fingerprint
from lightning_clip.evaluation.extraction import extract, quiet_trainer
from lightning_clip.evaluation.feature_provider import ModelSubject
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.protocols import Protocol, Result
from lightning_clip.evaluation.suite import Suite, built_protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["Failure", "Outcome", "run_suite", "suite_subject"]

log = logging.getLogger(__name__)
_FORMAT = 4  # of kept results


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
        datasets: set -> what it is; its pictures are read as the first model reads them.
        opened: the models themselves, by name.
        protocols: set -> protocol -> the object that measured.
        failures: what could not be measured.
        missing: set -> why it could not be opened; its failures are among the others.
        extracted: files of features that were made by this run; empty where all were there.
        images: set -> images of its test split.
        models: name -> identity of those whose features were kept on disk.
    """

    results: dict[str, dict[str, dict[str, Result]]] = field(default_factory=dict)
    datasets: dict[str, EvaluationSet] = field(default_factory=dict)
    opened: dict[str, EvaluatedModel] = field(default_factory=dict)
    protocols: dict[str, dict[str, Protocol]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    extracted: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


Subjects = Callable[[EvaluatedModel, EvaluationSet, str, Any], ModelSubject]


def run_suite(
    suite: Suite,
    models: Sequence[EvaluatedModel],
    progress: Callable[[str], None] = lambda text: None,
    subjects: Subjects | None = None,
) -> Outcome:
    """Measures all models on all sets; what fails is listed, the rest continues.

    Features and results are kept under the model's identity: a second run reads them, an interrupted one continues.

    Args:
        suite: what is measured.
        models: each with a name of its own.
        progress: called with a few words on what is done next.
        subjects: model, set, its name and settings -> a subject; None keeps features and results on disk.

    Raises:
        InputError: a duplicate model name, or a Trainer that Lightning refuses.
    """
    if subjects is None and suite.trainer:
        quiet_trainer(suite.trainer)  # before anything is read, and once for all protocols
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise InputError(f"duplicate model name {max(names, key=names.count)!r}: use NAME=PATH")
    make = subjects or partial(suite_subject, suite)
    outcome = Outcome(models={} if subjects is not None else {model.name: model.identity for model in models})
    outcome.opened = {model.name: model for model in models}
    for name, spec in suite.sets.items():
        settings = dict(spec)
        wanted = dict(built_protocols(settings.pop("protocols")))
        try:
            dataset = open_evaluation_set(settings)
        except (InputError, OSError) as error:
            outcome.missing[name] = str(error)
            outcome.failures += [Failure(model, name, label, str(error)) for model in names for label in wanted]
            continue
        outcome.datasets[name], outcome.protocols[name] = dataset, wanted
        outcome.images[name] = len(dataset.source)
        for model in models:
            subject = make(model, dataset, name, settings)
            if model is models[0]:
                outcome.datasets[name] = subject.dataset
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
        keep=lambda by, images, path, classes: extract(by, images, path, num_classes=classes, **options),  # type: ignore[arg-type]
    )


def _measured(suite: Suite, subject: ModelSubject, label: str, protocol: Protocol, outcome: Outcome) -> Result | None:
    """The kept result or a new one; None if it failed, which is noted."""
    names = (subject.model.name, subject.name, label)
    if not isinstance(subject, CachedSubject):
        return _tried(protocol, subject, names, outcome)
    key = {
        "format": _FORMAT,
        "model": subject.model.identity,
        "scoring": hashlib.sha256(repr(subject.model.scoring_settings()).encode()).hexdigest(),
        "set": set_fingerprint(subject.dataset.source, subject.spec),
        "protocol": type(protocol).__name__,
        "settings": {name: value for name, value in vars(protocol).items() if not name.startswith("_")},
    }
    path = Path(suite.output) / "results" / ("--".join(map(safe_name, names)) + ".json")
    if (kept := _kept(path, key)) is not None:
        return kept
    if (result := _tried(protocol, subject, names, outcome)) is None:
        return None
    with beside(path) as place:
        kept = json.loads(json.dumps({"key": key, "result": asdict(result)}, default=str))
        place.write_text(json.dumps({**kept, "digest": _digest(kept)}, ensure_ascii=False), "utf-8")
    return _kept(path, key)


def _tried(protocol: Protocol, subject: ModelSubject, names: tuple[str, str, str], outcome: Outcome) -> Result | None:
    try:
        return protocol.evaluate(subject)
    except Exception as error:  # a long suite goes on with what is left
        if not isinstance(error, InputError | OSError):
            log.warning("%s on %s: %s failed", *names, exc_info=True)
        outcome.failures.append(Failure(*names, str(error) or type(error).__name__))
        return None


def _kept(path: Path, key: Mapping[str, Any]) -> Result | None:
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored.pop("digest") != _digest(stored):
            return None
        same = stored["key"] == json.loads(json.dumps(key, default=str))
        return Result(**stored["result"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # missing, incomplete or damaged: measured again


def _digest(stored: Mapping[str, Any]) -> str:
    """By which damage shows, to figures too."""
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
