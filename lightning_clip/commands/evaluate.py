"""`lightning-clip evaluate`: a suite's figures of models, in the terminal and as a report."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_clip.evaluation.interface import EvaluatedModel
    from lightning_clip.evaluation.suite import Suite

__all__ = ["add_arguments", "opened_model", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER or a folder; may be repeated to compare models",
    )
    parser.add_argument("--suite", required=True, help="YAML file with sets and their protocols")
    parser.add_argument("--output", help="folder of the report (default: what the suite says, or evaluation)")


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints the headlines, writes the report; exits with 1 if something could not be measured."""
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.core.locks import only_writer
    from lightning_clip.evaluation.suite import Suite

    quiet()
    suite = Suite.read(arguments.suite, **({"output": arguments.output} if arguments.output else {}))
    with nullcontext() if _is_further_rank() else only_writer(suite.output, "--output"):
        _evaluate(suite, arguments.checkpoint)


def _is_further_rank() -> bool:
    """Whether this process is one of several of one evaluation, and not the first."""
    return any(os.environ.get(key, "0") != "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _evaluate(suite: Suite, checkpoints: list[str]) -> None:
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
    if not outcome.extracted and outcome.results:
        console.print("all features were there already")
    page = write_summary(outcome, Path(suite.output), ", ".join(model.name for model in models))
    print(f"report: {page}")
    for failure in outcome.failures:
        reason = " ".join(failure.reason.split())
        print(f"not measured: {failure.model}, {failure.dataset}, {failure.protocol}: {reason}", file=sys.stderr)
    if outcome.failures:
        sys.exit(1)


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
