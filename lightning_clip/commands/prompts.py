"""`lightning-clip prompts show` and `search`: templates of a set, and those that suit a set of images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lightning_clip.core.errors import InputError, nearest

if TYPE_CHECKING:
    from lightning_clip.evaluation.cached_features import CachedSubject
    from lightning_clip.evaluation.features import Features

__all__ = ["add_search_arguments", "add_show_arguments", "run_search", "run_show"]


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prompts show`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a set of templates; none lists all sets")


def run_show(arguments: argparse.Namespace) -> None:
    """Prints the templates of sets, or the names of all sets."""
    from lightning_clip.prompts import templates
    from lightning_clip.prompts.templates import TEMPLATE_SETS

    if not arguments.names:
        for name in sorted(TEMPLATE_SETS):
            print(f"{name}: {len(templates(name))}")
    for name in arguments.names:
        print("\n".join(templates(name)))


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prompts search`."""
    parser.add_argument("--checkpoint", required=True, metavar="MODEL", help="as `lightning-clip evaluate` takes it")
    parser.add_argument("--suite", required=True, help="YAML file with the set, as `lightning-clip evaluate` takes it")
    parser.add_argument("--set", help="name of the set in the suite; needed if there are several")
    parser.add_argument(
        "--templates", action="append", help='set of templates or a template; may be repeated (default: "imagenet", CLIP\'s 80)'
    )
    parser.add_argument("--split", choices=("val", "train", "test"), help="images to choose on (default: val, or else train)")
    parser.add_argument("--most", type=int, help="templates to add at most (default: all are tried)")
    parser.add_argument("--output", default="prompts.yaml", help="file to write (default: %(default)s)")


def run_search(arguments: argparse.Namespace) -> None:
    """Chooses templates, prints each step, tests the choice and writes it.

    Raises:
        InputError: a wrong model, suite or template, a set without classes or without the split, or `--most` below 1.
    """
    from pathlib import Path

    from lightning_clip.commands.quiet import quiet
    from lightning_clip.prompts.search import search_templates
    from lightning_clip.reporting.terminal import PlainConsole

    if arguments.most is not None and arguments.most < 1:
        raise InputError(f"--most {arguments.most} must be at least 1 template")
    if not arguments.output.endswith((".yaml", ".yml")):
        raise InputError(f"--output {arguments.output!r} must end in .yaml")
    quiet()
    console = PlainConsole()
    candidates = _candidates(arguments.templates or ["imagenet"])
    subject = _subject(arguments)
    features = _split(subject, arguments.split)
    vectors = subject.template_vectors(subject.dataset.class_names, candidates)
    choice = search_templates(
        features.image_features,
        features.label,
        vectors,
        arguments.most,
        lambda template, accuracy: console.print(f"{100 * accuracy:5.1f} %  + {candidates[template]}", highlight=False),
    )
    _write(Path(arguments.output), [candidates[template] for template in choice.chosen])
    console.print(_tested(subject, candidates, choice.chosen))
    print(f"{len(choice.chosen)} of {len(candidates)} templates: {arguments.output}")


def _candidates(given: list[str]) -> list[str]:
    from lightning_clip.prompts import resolve_templates

    return list(dict.fromkeys(template for spec in given for template in resolve_templates(spec)))


def _subject(arguments: argparse.Namespace) -> CachedSubject:
    from lightning_clip.commands.evaluate import opened_model
    from lightning_clip.evaluation.run_suite import suite_subject
    from lightning_clip.evaluation.suite import Suite
    from lightning_clip.prompts.evaluation_sets import open_evaluation_set

    suite = Suite.read(arguments.suite)
    name = arguments.set or next(iter(suite.sets))
    if name not in suite.sets or (len(suite.sets) > 1 and not arguments.set):
        known = nearest(name, suite.sets) if arguments.set else f"choose by --set: {', '.join(suite.sets)}"
        raise InputError(f"suite {arguments.suite!r} has {len(suite.sets)} sets, --set is {arguments.set!r}: {known}")
    settings: dict[str, Any] = {key: value for key, value in suite.sets[name].items() if key != "protocols"}
    dataset = open_evaluation_set(settings)
    if not dataset.class_names or dataset.multilabel:
        raise InputError(f"templates are searched on sets with one class an image, which {name!r} is not: take another set")
    return suite_subject(suite, opened_model(arguments.checkpoint), dataset, name, settings)


def _split(subject: CachedSubject, split: str | None) -> Features:
    if split is None:
        split = "val" if subject.dataset.val is not None else "train"
        if split == "train" and subject.dataset.train is None:
            raise InputError(
                f"{subject.name} has no val and no train split to choose on: give one, or --split test, whose accuracy "
                "then says nothing"
            )
    return subject.features(split)


def _tested(subject: CachedSubject, candidates: list[str], chosen: list[int]) -> Any:
    """A table of the choice beside all templates and the first one, on the test split."""
    from rich.table import Table

    from lightning_clip.prompts.search import ensemble_accuracy

    test, vectors = subject.features(), subject.template_vectors(subject.dataset.class_names, candidates)
    table = Table("templates", "top-1 on the test split, %")
    for name, rows in {"the first": [0], f"all {len(candidates)}": list(range(len(candidates))), "chosen": chosen}.items():
        table.add_row(name, f"{100 * ensemble_accuracy(test.image_features, test.label, vectors[rows]):.1f}")
    return table


def _write(path: Any, templates: list[str]) -> None:
    import yaml

    from lightning_clip.core.atomic import beside

    with beside(path) as place:
        place.write_text(yaml.safe_dump({"templates": templates}, allow_unicode=True, width=1000), encoding="utf-8")
