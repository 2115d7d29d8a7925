"""`lightning-clip index build` and `index info`: pictures made ready for `lightning-clip search`."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_source_arguments, add_workers_argument, open_source, source_settings

__all__ = ["add_build_arguments", "add_info_arguments", "run_build", "run_info"]


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `index build`."""
    add_source_arguments(parser)
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="MODEL",
        help="a .ckpt, open_clip:NAME/TAG_OR_FILE, hf:NAME_OR_FOLDER or a folder",
    )
    parser.add_argument(
        "--output", required=True, metavar="INDEX", help="folder of the index, such as photos.index; added to if there"
    )
    parser.add_argument(
        "--thumbnail", type=int, default=224, metavar="PIXELS", help="longer side of small pictures, 0 for none"
    )
    parser.add_argument("--prune", action="store_true", help="take out pictures that are not in the data any more")
    parser.add_argument("--device", default="", metavar="NAMES", help="such as cuda, or cuda:0,cuda:1 (default: the CPU)")
    add_workers_argument(parser)
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help='work on a Ray cluster, such as "auto" for the running one; without an address, one is started here',
    )


def run_build(arguments: argparse.Namespace) -> None:
    """Builds an index, or adds to it, and says what it holds.

    Raises:
        InputError: what `build_index` refuses, or a thumbnail of a negative size.
    """
    from lightning_clip.applications.search import build_index
    from lightning_clip.core.settings import in_range
    from lightning_clip.curation import OnRay, Processes
    from lightning_clip.data.shards.addresses import shown

    in_range("--thumbnail", arguments.thumbnail, 0, 2048, whole=True)
    workers, ray = arguments.workers, arguments.ray
    built = build_index(
        arguments.output,
        open_source(arguments) if ray is None else source_settings(arguments),  # other machines open it themselves
        arguments.checkpoint,
        name=shown(arguments.data),
        executor=Processes(workers) if ray is None else OnRay(ray or None, workers if workers > 1 else None),
        thumbnail=arguments.thumbnail,
        devices=[name.strip() for name in arguments.device.split(",") if name.strip()],
        prune=arguments.prune,
    )
    print(
        f"{built.added:,} pictures added ({built.computed:,} computed), {built.unchanged:,} unchanged, {built.gone:,} taken out"
    )
    for reason, count in built.skipped.most_common():
        place = next(where for where, why in built.examples if why == reason)
        print(f"{count:,} skipped: {reason} (first: {place})")
    print(f"{built.pictures:,} pictures in {arguments.output}: search them with lightning-clip search {arguments.output} WORDS")


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `index info`."""
    parser.add_argument("index", metavar="INDEX", help="folder of the index")


def run_info(arguments: argparse.Namespace) -> None:
    """Prints what an index holds.

    Raises:
        InputError: no index.
    """
    from rich.table import Table

    from lightning_clip.applications.search import SearchIndex
    from lightning_clip.reporting.terminal import PlainConsole

    index = SearchIndex(arguments.index)
    size = sum(file.stat().st_size for file in index.path.iterdir() if file.is_file())
    rows = {
        "pictures": f"{index.pictures():,}",
        "taken out": f"{len(index.entries.gone()):,}",
        "width of a vector": f"{index.dim}",
        "searched exactly / by the graph": f"{index.vectors.in_tail:,} / {index.vectors.in_graph:,}",
        "on the disk": f"{size / 1e6:,.1f} MB",
        "model": index.model or "an object",
        "sources": "\n".join(index.entries.sources().values()),
    }
    table = Table(show_header=False, title=str(index.path))
    table.add_column()
    table.add_column(overflow="fold")  # paths are copied from here
    for name, value in rows.items():
        table.add_row(name, value)
    PlainConsole().print(table)
