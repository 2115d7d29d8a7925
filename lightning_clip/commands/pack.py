"""`lightning-clip data pack`: shards of a source."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_source_arguments, add_workers_argument, open_source

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, help='shard names with one number, such as "shards/train-%%06d.tar"')
    parser.add_argument("--pairs-per-shard", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="decode each image and drop those that do not")
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="shorter side at most so long; never enlarges")
    parser.add_argument("--encode", metavar="FORMAT", help="write all images as jpg, png or webp (default: as they are)")
    parser.add_argument("--quality", type=int, default=90, help="of jpg and webp (default: %(default)s)")
    parser.add_argument("--hash", action="store_true", help="put the SHA-256 of each image into its record")
    parser.add_argument("--dedupe", action="store_true", help="drop images whose bytes repeat an earlier one")
    add_workers_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes shards and says what was dropped and why."""
    from rich.table import Table

    from lightning_clip.data.pack_shards import PackOptions, pack_shards
    from lightning_clip.reporting.terminal import PlainConsole

    names = ("check", "resize", "encode", "quality", "hash", "dedupe")
    options = PackOptions(**{name: getattr(arguments, name) for name in names})
    summary = pack_shards(
        open_source(arguments), arguments.output, arguments.pairs_per_shard, options=options, workers=arguments.workers
    )
    kept = f" ({summary.kept} of them by an earlier run)" if summary.kept else ""
    print(
        f"wrote {summary.pairs} pairs ({summary.bytes / 1e6:.1f} MB) to {len(summary.shards)} shards{kept}, "
        f"{summary.shards[0]} to {summary.shards[-1]}"
    )
    if summary.dropped:
        table = Table("dropped", "pairs", title="each is named in the _stats.json beside its shard")
        for reason, count in summary.dropped.most_common():
            table.add_row(reason, f"{count:,}")
        PlainConsole().print(table)
