"""`lightning-clip checkpoint consolidate`: a checkpoint in parts arrives, one .ckpt file leaves."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_clip.errors import InputError, existing_path

__all__ = ["add_consolidate_arguments", "run_consolidate"]


def add_consolidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("folder", help="written by clip_fsdp2 with sharded_checkpoint, or by clip_deepspeed")
    parser.add_argument("--output", required=True, help="the .ckpt file to write; one that is there is never replaced")


def run_consolidate(arguments: argparse.Namespace) -> None:
    """Writes beside the output and renames, so that a file under that name is always whole.

    Raises:
        InputError: an output that exists or has no folder, or a checkpoint that cannot be read.
    """
    output = Path(arguments.output).expanduser()
    folder = existing_path(arguments.folder, "checkpoint")
    if output.exists():
        raise InputError(f"--output {str(output)!r} exists and is never replaced: remove it or give another name")
    if output.suffix != ".ckpt":
        raise InputError(f"--output {str(output)!r} must end in .ckpt")
    if not output.parent.is_dir():
        raise InputError(f"--output {str(output)!r}: there is no folder {str(output.parent)!r}, make it first")

    import torch

    from lightning_clip.strategies.consolidate import consolidate

    checkpoint = consolidate(folder)
    beside = output.with_suffix(".partial")
    try:
        torch.save(checkpoint, beside)
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)
    count = sum(value.numel() for value in checkpoint["state_dict"].values())
    resumable = "optimizer's state included" if checkpoint.get("optimizer_states") else "weights alone, without optimizer"
    print(f"wrote {output}: {count:,} values, {resumable}, step {checkpoint['global_step']}")
