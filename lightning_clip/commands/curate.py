"""`lightning-clip data curate`: filtered, deduplicated and balanced pairs, with a report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lightning_clip.commands.sources import add_executor_arguments, executor_of
from lightning_clip.core.errors import InputError

if TYPE_CHECKING:
    from lightning_clip.curation import CurationSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--config", help="YAML file with data, output, filters, duplicates, best_scores, balance")
    parser.set_defaults(overrides=[])
    parser.epilog = "Any setting of the file may be given or overridden as --KEY=VALUE, such as --balance.most=500"
    add_executor_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Curates, prints the steps and writes the report."""
    from pathlib import Path

    from rich.table import Table

    from lightning_clip.curation import curate
    from lightning_clip.curation.curate import source_name
    from lightning_clip.curation.report import summary_rows, write_curation_report
    from lightning_clip.reporting.terminal import PlainConsole

    settings = _settings(arguments)
    result = curate(settings, executor_of(arguments))
    table = Table("step", "pairs dropped", "share", "left", title=f"{len(result.kept):,} of {len(result.reason):,} pairs kept")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary_rows(result):
        table.add_row(*row)
    PlainConsole().print(table)
    if result.units_kept:
        print(f"{result.units_kept} of {result.units} units had been looked at before")
    most = settings.balance.most if settings.balance else None
    page = write_curation_report(result, Path(settings.output), source_name(settings.data), most)
    print(f"list: {Path(settings.output) / 'kept.npy'}")
    if result.packed is not None:
        print(f"shards: {result.packed.shards[0]} to {result.packed.shards[-1]}")
    print(f"report: {page}")


def _settings(arguments: argparse.Namespace) -> CurationSettings:
    """The file's settings, then those of the command line; ${oc.env:...} is resolved."""
    from lightning_clip.core.yaml_files import read_mapping
    from lightning_clip.curation import CurationSettings

    for text in arguments.overrides:
        if not text.startswith("--") or "=" not in text:
            raise InputError(f"setting {text!r} must be --KEY=VALUE, such as --balance.most=500")
    overrides = [text.removeprefix("--") for text in arguments.overrides]
    return CurationSettings.parse(read_mapping(arguments.config, "config", overrides))
