"""`lightning-clip data teach`: shards with the teachers' features beside the pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.commands.sources import add_source_arguments, open_source

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.data.sources import PairSource
    from lightning_clip.evaluation.interface import EvaluatedModel

__all__ = ["add_arguments", "run"]

_DTYPES = ("float16", "bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source_arguments(parser)
    parser.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="MODEL",
        help="a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER or a folder; may be repeated",
    )
    parser.add_argument("--output", required=True, help='shard names with one number, such as "taught/train-%%06d.tar"')
    parser.add_argument("--pairs-per-shard", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--dtype", choices=_DTYPES, default="float16", help="of the stored features (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Precomputes each teacher's features of all images, in the evaluation transform, and all captions; then packs.

    Raises:
        InputError: a wrong model or source, shards that cannot be written, or another process that writes there.
    """
    from lightning_clip.core.locks import only_writer

    Path(arguments.output).expanduser().parent.mkdir(parents=True, exist_ok=True)
    with only_writer(arguments.output, "--output"):
        _teach(arguments)


def _teach(arguments: argparse.Namespace) -> None:
    import torch

    from lightning_clip.commands.quiet import quiet
    from lightning_clip.data.pack_shards import pack_shards
    from lightning_clip.data.teachers import TaughtSource
    from lightning_clip.evaluation.models import open_model

    quiet()
    source, teachers = open_source(arguments), [open_model(name) for name in arguments.teacher]
    asked = [_asked(source, teacher, arguments) for teacher in teachers]
    images, texts = ([features[part] for features in asked] for part in (0, 1))
    taught = TaughtSource(source, images, texts, [teacher.scale for teacher in teachers], getattr(torch, arguments.dtype))
    summary = pack_shards(taught, arguments.output, arguments.pairs_per_shard)
    names = ", ".join(teacher.name for teacher in teachers)
    dropped = f", dropped: {dict(summary.dropped)}" if summary.dropped else ""
    print(
        f"wrote {summary.pairs} pairs ({summary.bytes / 1e6:.1f} MB) with the features of {names} to {len(summary.shards)} "
        f"shards, {summary.shards[0]} to {summary.shards[-1]}{dropped}"
    )


def _asked(
    source: PairSource, teacher: EvaluatedModel, arguments: argparse.Namespace
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Features of a teacher: place -> image (D,), and place -> texts (captions, D)."""
    import torch

    from lightning_clip.evaluation.extraction import extract
    from lightning_clip.evaluation.images import Images

    folder = Path(arguments.output).parent
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "num_workers": arguments.workers}
    path = folder / f".{teacher.identity}.safetensors"
    features = extract(teacher, Images(source, teacher.transform()), path, **options)
    path.unlink(missing_ok=True)
    images = dict(zip(features.index.tolist(), features.image_features, strict=True))
    places, counts = torch.unique_consecutive(features.text_index, return_counts=True)
    texts = dict(zip(places.tolist(), torch.split(features.text_features, counts.tolist()), strict=True))
    return images, texts
