"""`lightning-clip index build` and `index info`: pictures made ready for `lightning-clip search`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lightning_clip.commands.sources import (
    add_executor_arguments,
    add_model_argument,
    add_source_arguments,
    executor_of,
    open_source,
    source_settings,
)
from lightning_clip.core.errors import InputError

__all__ = ["add_build_arguments", "add_info_arguments", "devices_of", "run_build", "run_info"]


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `index build`."""
    add_source_arguments(parser)
    add_model_argument(parser)
    parser.add_argument(
        "--output", required=True, metavar="INDEX", help="folder of the index, such as photos.index; added to if there"
    )
    parser.add_argument(
        "--thumbnail", type=int, default=224, metavar="PIXELS", help="longer side of small pictures, 0 for none"
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where vectors are kept: files (exact search, a graph from 100,000 on; the default), exact, usearch, "
        "lancedb[:FOLDER or s3://...], qdrant:URL/COLLECTION",
    )
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="frames of each video in a folder (default: 8)")
    parser.add_argument("--prune", action="store_true", help="take out pictures that are not in the data any more")
    parser.add_argument("--device", default="", metavar="NAMES", help="such as cuda, or cuda:0,cuda:1 (default: cpu)")
    add_executor_arguments(parser)


def run_build(arguments: argparse.Namespace) -> None:
    """Builds an index, or adds to it, and says what it holds.

    Raises:
        InputError: what `build_index` refuses, or a thumbnail of a negative size.
    """
    from lightning_clip.applications.search import build_index
    from lightning_clip.core.settings import in_range
    from lightning_clip.data.shards.addresses import shown

    in_range("--thumbnail", arguments.thumbnail, 0, 2048, whole=True)
    in_range("--frames", arguments.frames, 1, whole=True)
    name, pictures, videos = _found(shown(arguments.data)), *_holds(arguments)
    data = [(name, _data(arguments), "pictures")] if pictures else []
    if videos:
        frames = {"name": "video_frames", "path": arguments.data, "frames": arguments.frames}
        data.append((f"{name} (videos)", frames, "frames of videos"))
    for name, source, what in data:
        built = build_index(
            arguments.output,
            source,
            _found(arguments.checkpoint),
            name=name,
            executor=executor_of(arguments),
            store=arguments.store,
            thumbnail=arguments.thumbnail,
            devices=devices_of(arguments.device),
            prune=arguments.prune,
        )
        done = f"{built.added:,} {what} added ({built.computed:,} computed)"
        print(f"{done}, {built.unchanged:,} unchanged, {built.gone:,} taken out")
        for reason, count in built.skipped.most_common():
            print(f"{count:,} skipped: {reason} (first: {built.examples[reason]})")
    print(f"{built.pictures:,} pictures in {arguments.output}: search them with lightning-clip search {arguments.output} WORDS")


def _holds(arguments: argparse.Namespace) -> tuple[bool, bool]:
    """Whether the data has pictures, and whether it is a folder that has videos."""
    if not Path(arguments.data).expanduser().is_dir() or list(source_settings(arguments)) != ["name"]:
        return True, False
    from lightning_clip.data.file_tree import FileTree, is_image
    from lightning_clip.data.videos import is_video

    names = FileTree(arguments.data).names()
    videos = any(map(is_video, names))
    return not videos or any(map(is_image, names)), videos


def _data(arguments: argparse.Namespace) -> Any:
    """The source; on Ray its settings, since other machines open it.

    Where a folder has no texts all its pictures are meant, also those that stand beside or below class folders.
    """
    from lightning_clip.data.sources import ClassFolders, ImagesAlone, pair_sources

    settings = source_settings(arguments)
    try:
        source: Any = open_source(arguments)
    except ImagesAlone:
        source = None
    if source is None or (isinstance(source, ClassFolders) and list(settings) == ["name"]):
        settings = {"name": "pictures", "path": arguments.data}
        source = pair_sources.build(settings)
    return source if arguments.ray is None else settings


def devices_of(text: str) -> list[str]:
    """Devices that are there. They are counted and not opened: forked processes could not open them again."""
    import torch

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise InputError(f"--device {name!r} is no device: give such as cpu, cuda or cuda:0,cuda:1") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"--device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return names


def _found(name: str) -> str:
    """What the index remembers of a path: the same from whatever folder it is used. Other names stay as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


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
    size = sum(file.stat().st_size for file in index.path.rglob("*") if file.is_file())
    rows = {
        "pictures": f"{index.pictures():,}",
        "taken out": f"{len(index.entries.gone()):,}",
        "width of a vector": f"{index.dim}",
        "vectors": index.vectors.about(),
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
