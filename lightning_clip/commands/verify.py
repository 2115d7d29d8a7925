"""`lightning-clip data verify`: a list of everything in a source that cannot be used."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_source_arguments, add_workers_argument, open_source

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source_arguments(parser)
    parser.add_argument("--output", metavar="FILE.jsonl", help="write every fault to this file, one a line")
    add_workers_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    """Reads everything; ends with 1 where something cannot be used."""
    import json
    from collections import Counter

    from rich.table import Table

    from lightning_clip.core.atomic import beside
    from lightning_clip.data.shards.addresses import shown
    from lightning_clip.data.verify import verify_pairs
    from lightning_clip.reporting.terminal import PlainConsole

    found = verify_pairs(open_source(arguments), workers=arguments.workers)
    every = [*found.faults, *found.findings]
    if arguments.output:
        with beside(arguments.output) as place:
            place.write_text("".join(json.dumps(fault._asdict(), ensure_ascii=False) + "\n" for fault in every))
    if not found.faults:
        print(f"all {found.pairs:,} pairs can be used")
    if not every:
        return
    table = Table("fault", "count", "first", title=f"{shown(arguments.data)}: {found.pairs:,} pairs read")
    for reason, count in Counter(fault.reason for fault in every).most_common():
        first = next(fault for fault in every if fault.reason == reason)
        table.add_row(reason, f"{count:,}", f"{first.place} {first.key}".strip())
    PlainConsole().print(table)
    if found.faults:
        raise SystemExit(1)
