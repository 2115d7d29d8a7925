"""Reading a sharded checkpoint of torch without running what its pickles ask for."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["ALLOW", "check_index", "without_code"]

ALLOW = "if you trust its author, add --allow-pickle (in Python: allow_pickle=True)"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# What torch.distributed.checkpoint writes into .metadata: where the parts of each tensor stand.
_KNOWN = {
    "torch": {
        "Size",
        "device",
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    },
    "torch.serialization": {"_get_layout"},
    "torch._utils": {"_rebuild_device_mesh"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path", "WindowsPath", "PureWindowsPath"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "Metadata",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
}


class _Index(pickle.Unpickler):
    """Refuses every class or function that no checkpoint's index has, before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "pathlib._local":  # where Python 3.13 alone has what others have in pathlib
            module = "pathlib"
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_index(path: Path) -> None:
    """Checks that a checkpoint's index holds nothing but where its parts stand.

    Args:
        path: of the file, `.metadata`.

    Raises:
        InputError: it would run something, or is no index.
    """
    try:
        with path.open("rb") as stream:
            _Index(stream).load()
    except pickle.UnpicklingError as error:
        if "it names" not in str(error):
            raise
        raise InputError(f"checkpoint {str(path.parent)!r}: reading {path.name} may run code ({error}): {ALLOW}") from error


@contextmanager
def without_code() -> Iterator[None]:
    """While it lasts, `torch.load` takes tensors, numbers and texts alone, whatever its caller asks for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE)
        if before is not None:
            os.environ[_FORCE] = before
