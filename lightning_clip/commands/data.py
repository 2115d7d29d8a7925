"""`lightning-clip data pack` and `data inspect`: a source arrives, shards or a report on it leave."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_source_arguments, open_source

__all__ = ["add_inspect_arguments", "add_pack_arguments", "run_inspect", "run_pack"]


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data pack`."""
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, help='shard names with one number, such as "shards/train-%%06d.tar"')
    parser.add_argument("--pairs-per-shard", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="decode each image and drop those that do not")


def run_pack(arguments: argparse.Namespace) -> None:
    """Writes shards and says what was left out and why."""
    from lightning_clip.data.pack import pack_shards

    summary = pack_shards(open_source(arguments), arguments.output, arguments.pairs_per_shard, check=arguments.check)
    last = len(summary.shards) - 1
    print(
        f"wrote {summary.pairs} pairs ({summary.bytes / 1e6:.1f} MB) to {len(summary.shards)} shards, "
        f"{arguments.output % 0} to {arguments.output % last}"
    )
    for reason, count in summary.dropped.most_common():
        print(f"left out {count}: {reason}")


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data inspect`."""
    add_source_arguments(parser)
    parser.add_argument("--output", default="contact_sheet.png", help="the picture to write (default: %(default)s)")
    parser.add_argument("--decode", type=int, default=1000, help="images to decode at most (default: %(default)s)")


def run_inspect(arguments: argparse.Namespace) -> None:
    """Prints counts and writes a contact sheet."""
    from rich.console import Console
    from rich.table import Table

    from lightning_clip.data.pack import inspect_pairs
    from lightning_clip.evaluation.figures import contact_sheet, save_figure

    found = inspect_pairs(open_source(arguments), images=arguments.decode)
    table = Table(title=arguments.data)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_row("pairs", f"{found.pairs:,}")
    table.add_row("captions", f"{found.captions:,}")
    table.add_row("captions per image", "{} to {}".format(*found.captions_per_image))
    table.add_row("words per caption, median / most", "{:g} / {}".format(*found.words))
    table.add_row("characters per caption, median / most", "{:g} / {}".format(*found.characters))
    table.add_row("captions that repeat another", f"{found.duplicate_captions:,}")
    table.add_row("images decoded", f"{found.looked_at:,}")
    for (width, height), count in found.sizes.most_common(3):
        table.add_row(f"  {width} x {height} pixels", f"{count:,}")
    for reason, count in found.broken.most_common():
        table.add_row(f"  broken: {reason}", f"{count:,}")
    Console().print(table)
    sheet = contact_sheet([image for image, _ in found.samples], [_short(caption) for _, caption in found.samples])
    save_figure(sheet, arguments.output)
    print(f"contact sheet: {arguments.output}")


def _short(caption: str, width: int = 26, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(caption, width)[:lines])
