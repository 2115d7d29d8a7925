"""`lightning-clip evaluate`: a suite's figures of models, in the terminal and as a report."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_clip.evaluation.interface import EvaluatedModel
    from lightning_clip.evaluation.run_suite import Outcome
    from lightning_clip.evaluation.suite import Suite
    from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["SUITES", "add_arguments", "opened_model", "run"]

# Written down: help must not open what the suites are made of. A test compares it with the files.
SUITES = ("chinese", "compositional", "limits", "natural_shifts", "paper27", "retrieval", "vtab+", "zero_shot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER or a folder; may be repeated to compare models",
    )
    parser.add_argument("--suite", required=True, help=f"YAML file with sets and their protocols, or {', '.join(SUITES)}")
    parser.add_argument("--data", help="folder of the sets that are known by name (default: $LIGHTNING_CLIP_DATASETS)")
    parser.add_argument("--download", action="store_true", help="fetch the sets that are not there and can be fetched")
    parser.add_argument(
        "--published",
        nargs="?",
        const="",
        metavar="NAME",
        help="also print published figures of these weights; NAME (ViT-B-32/openai) where the checkpoint does not tell",
    )
    parser.add_argument("--output", help="folder of the report (default: what the suite says, or evaluation)")


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints the headlines, writes the report; exits with 1 if something could not be measured."""
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.core.errors import existing_path
    from lightning_clip.core.locks import only_writer
    from lightning_clip.evaluation.suite import Suite

    quiet()
    if arguments.data:
        os.environ["LIGHTNING_CLIP_DATASETS"] = str(existing_path(arguments.data, "--data"))
    suite = Suite.read(arguments.suite, **({"output": arguments.output} if arguments.output else {}))
    suite = suite.fetching() if arguments.download else suite
    with nullcontext() if _is_further_rank() else only_writer(suite.output, "--output"):
        _evaluate(suite, arguments.checkpoint, _published(arguments.published, arguments.checkpoint))


def _is_further_rank() -> bool:
    """Whether this process is one of several of one evaluation, and not the first."""
    return any(os.environ.get(key, "0") != "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _published(given: str | None, checkpoints: list[str]) -> list[str]:
    """For each checkpoint the name under which its figures are published; empty where they are not asked for."""
    if given is None:
        return []
    from lightning_clip.evaluation.published_figures import known_model

    return [known_model(given or text.rpartition("=")[2]) for text in checkpoints]


def _evaluate(suite: Suite, checkpoints: list[str], published: list[str]) -> None:
    from pathlib import Path

    from rich.table import Table

    from lightning_clip.evaluation.run_suite import run_suite
    from lightning_clip.evaluation.summary import HEADER, headline_rows, write_summary
    from lightning_clip.reporting.terminal import PlainConsole

    models = [opened_model(text) for text in checkpoints]
    console = PlainConsole()
    outcome = run_suite(suite, models, lambda text: console.print(text, highlight=False))
    table = Table(*HEADER)
    for row in headline_rows(outcome):
        table.add_row(*row)
    console.print(table)
    for model, known in zip(models, published, strict=False):
        _print_published(console, outcome, model.name, known)
    if not outcome.extracted and outcome.results:
        console.print("all features were there already")
    page = write_summary(outcome, Path(suite.output), ", ".join(model.name for model in models))
    print(f"report: {page}")
    for name, reason in outcome.missing.items():  # one line a set, whatever was to be measured on it
        print(f"not measured: {name}: {' '.join(reason.split())}", file=sys.stderr)
    for failure in outcome.failures:
        if failure.dataset in outcome.missing:
            continue
        reason = " ".join(failure.reason.split())
        print(f"not measured: {failure.model}, {failure.dataset}, {failure.protocol}: {reason}", file=sys.stderr)
    if outcome.failures:
        sys.exit(1)


def _print_published(console: PlainConsole, outcome: Outcome, model: str, known: str) -> None:
    """Ours beside what others measured, with the sources below."""
    from rich.table import Table

    from lightning_clip.evaluation.published_figures import COMPARED, compared, sources
    from lightning_clip.reporting.text import in_percent

    rows, cited = compared(outcome, model, known), sources()
    if not rows:
        console.print(f"{model}: nothing of what was measured is published here for {known}")
        return
    table = Table(*COMPARED, title=f"{model} beside published figures of {known}")
    for ours, figure in rows:
        difference = f"{100 * (ours - figure.value):+.1f}"
        names = (figure.dataset, figure.protocol, figure.measure)
        table.add_row(*names, in_percent(ours), in_percent(figure.value), difference, figure.source)
    console.print(table)
    for key in dict.fromkeys(figure.source for _, figure in rows):
        console.print(f"{key}: {cited[key]['title']}, {cited[key]['url']}", highlight=False)


def opened_model(text: str) -> EvaluatedModel:
    """A model as the command line names it: [NAME=]MODEL, where a file's name may hold "=", too."""
    from pathlib import Path

    from lightning_clip.evaluation.models import open_model

    name, sign, source = text.partition("=")
    if not sign or "/" in name or ":" in name or Path(text).expanduser().exists():
        return open_model(text)
    model = open_model(source)
    model.name = name
    return model
