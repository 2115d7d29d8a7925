"""One file from a checkpoint that ranks wrote in parts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.load import _METADATA_FILENAME, _load_distributed_checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from lightning_clip.checkpoints.parts import check_parts
from lightning_clip.checkpoints.reading import CLASS_KEY, is_deepspeed_checkpoint
from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.strategies.optimizer_states import numbered_state
from lightning_clip.strategies.safe_parts import ALLOW, check_index, without_code

__all__ = ["consolidate"]

# What DeepSpeed's engine keeps beside what Lightning gave it; the rest is the checkpoint.
_LIGHTNING = ("epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "lr_schedulers", "hyper_parameters")


def consolidate(folder: str | Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """What one process would have saved, in the CPU's memory.

    From FSDP2 with the optimizer's state, so that training goes on under any strategy but DeepSpeed's; from DeepSpeed the
    float32 weights, without it.

    Args:
        folder: written by `clip_fsdp2` with `sharded_checkpoint=True`, or by a `clip_deepspeed` strategy.
        allow_pickle: read files that may run code, as all of DeepSpeed's do. Only for folders whose author you trust.

    Raises:
        InputError: no such folder, a folder of something else, parts that are missing, of several steps or may run code, or
            no DeepSpeed to read its own.
    """
    path = existing_path(folder, "checkpoint")
    if not path.is_dir():
        raise InputError(f"checkpoint {str(path)!r} is one file already: use it as it is")
    if (path / _METADATA_FILENAME).is_file():
        read = _read_fsdp2
    elif is_deepspeed_checkpoint(path):
        read = _read_deepspeed
    else:
        raise InputError(
            f"{str(path)!r} is no checkpoint in parts: give the folder that a run under clip_fsdp2 (sharded_checkpoint: true) "
            "or clip_deepspeed wrote, often named like epoch=0-step=100.ckpt"
        )
    try:
        checkpoint = read(path, allow_pickle)
    except InputError:
        raise
    except (Exception, CheckpointException) as error:  # torch and DeepSpeed raise of every kind where files are missing or cut
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
        raise InputError(
            f"checkpoint {str(path)!r} is not complete: {reason}. Copy the whole folder, with the parts of every rank"
        ) from error
    if CLASS_KEY not in checkpoint:
        raise InputError(f"checkpoint {str(path)!r} was not written by a ClipModule: Lightning's own tools may read it")
    check_parts(path)
    return checkpoint


def _read_fsdp2(path: Path, allow_pickle: bool) -> dict[str, Any]:
    if allow_pickle:
        checkpoint = _load_distributed_checkpoint(path)
    else:
        check_index(path / ".metadata")  # torch's own, where Lightning's has another name
        try:
            with without_code():
                checkpoint = _load_distributed_checkpoint(path)
        except (Exception, CheckpointException) as error:
            if "weights_only" not in str(error) and "WeightsUnpickler" not in str(error):
                raise
            raise InputError(f"checkpoint {str(path)!r}: reading its parts may run code: {ALLOW}") from error
    optimizers: list[dict[str, Any]] = []
    while (state := checkpoint.pop(f"optimizer_{len(optimizers)}", None)) is not None:
        names = [name for group in state["param_groups"] for name in group["params"]]
        optimizers.append(numbered_state(state, names))
    checkpoint["optimizer_states"] = optimizers
    return checkpoint


def _read_deepspeed(path: Path, allow_pickle: bool) -> dict[str, Any]:
    if not allow_pickle:  # its whole state is pickled, objects of its own among it
        raise InputError(f"checkpoint {str(path)!r}: DeepSpeed's files may run code when they are read: {ALLOW}")
    if find_spec("deepspeed") is None:
        raise InputError(f"checkpoint {str(path)!r} needs DeepSpeed to be read: pip install 'lightning-clip[deepspeed]'")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint, get_model_state_files

    tag = "checkpoint"
    states = torch.load(get_model_state_files(str(path / tag))[0], map_location="cpu", weights_only=False)
    checkpoint = {key: states[key] for key in (*_LIGHTNING, CLASS_KEY) if key in states}
    weights = get_fp32_state_dict_from_zero_checkpoint(str(path), tag)
    checkpoint["state_dict"] = {name: value.clone() for name, value in weights.items()}
    return checkpoint
