"""`lightning-clip checkpoint consolidate|merge`: one ordinary .ckpt of one in parts or with adapters."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.locks import only_writer

__all__ = ["add_consolidate_arguments", "add_merge_arguments", "run_consolidate", "run_merge"]


def add_consolidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("folder", help="written by clip_fsdp2 with sharded_checkpoint, or by clip_deepspeed")
    parser.add_argument("--output", required=True, help="the .ckpt file to write; an existing one is never replaced")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read files that may run code, as DeepSpeed's do; only if you trust the author",
    )


def run_consolidate(arguments: argparse.Namespace) -> None:
    """Writes beside the output and renames, so that a file under that name is always whole.

    Raises:
        InputError: an output that exists or has no folder, or a checkpoint that cannot be read.
    """
    folder = existing_path(arguments.folder, "checkpoint")
    with _new_file(arguments.output, "--output") as output:
        _consolidate(folder, output, arguments.allow_pickle)


def _consolidate(folder: Path, output: Path, allow_pickle: bool) -> None:
    from lightning_clip.strategies.consolidate import consolidate

    checkpoint = consolidate(folder, allow_pickle=allow_pickle)
    _write(checkpoint, output)
    count = sum(value.numel() for value in checkpoint["state_dict"].values())
    resumable = "optimizer's state included" if checkpoint.get("optimizer_states") else "weights alone, without optimizer"
    print(f"wrote {output}: {count:,} values, {resumable}, step {checkpoint['global_step']}")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "checkpoint", help="a .ckpt of a run with adapters (adapt.image.lora, adapt.text.lora), new tokens or store: trained"
    )
    parser.add_argument("output", help="the .ckpt file to write; an existing one is never replaced")
    parser.add_argument(
        "--pretrained", help="the weights that the run began with, where the checkpoint does not know their name"
    )


def run_merge(arguments: argparse.Namespace) -> None:
    """Adds adapters, new tokens and omitted weights to the others: the file of an ordinary training, no optimizer.

    Raises:
        InputError: an output that exists or has no folder, a checkpoint that cannot be read or is whole.
    """
    path = existing_path(arguments.checkpoint, "checkpoint")
    with _new_file(arguments.output, "output") as output:
        _merge(path, output, {"pretrained": arguments.pretrained} if arguments.pretrained else {})


def _merge(path: Path, output: Path, options: dict[str, Any]) -> None:
    import torch

    from lightning_clip.merging import merged
    from lightning_clip.module.clip_module import ClipModule

    module = merged(ClipModule.load_from_checkpoint(path, **options))
    before = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    kept = {key: before[key] for key in ("epoch", "global_step", "pytorch-lightning_version") if key in before}
    checkpoint: dict[str, Any] = {**kept, "state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    _write(checkpoint, output)
    count = sum(value.numel() for value in checkpoint["state_dict"].values())
    print(f"wrote {output}: {count:,} values, weights alone, without optimizer, step {before.get('global_step', 0)}")


@contextmanager
def _new_file(name: str, argument: str) -> Iterator[Path]:
    """A file that only this process writes while the block lasts, and that is not there yet."""
    output = Path(name).expanduser()
    _check_new(output, argument)
    with only_writer(output, argument):  # and again: another process may have written it meanwhile
        _check_new(output, argument)
        yield output


def _check_new(output: Path, argument: str) -> None:
    if output.exists():
        raise InputError(f"{argument} {str(output)!r} exists and is never replaced: remove it or give another name")
    if output.suffix != ".ckpt":
        raise InputError(f"{argument} {str(output)!r} must end in .ckpt")
    if not output.parent.is_dir():
        raise InputError(f"{argument} {str(output)!r}: there is no folder {str(output.parent)!r}, make it first")


def _write(checkpoint: dict[str, Any], output: Path) -> None:
    import torch

    from lightning_clip.core.atomic import beside

    with beside(output) as place:
        torch.save(checkpoint, place)
