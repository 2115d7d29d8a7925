"""Which class wrote a checkpoint, and what can go wrong when it is read, in one line each."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_clip.checkpoints.checking import CLASS_KEY, check_content
from lightning_clip.core.errors import InputError, UnknownName, existing_path
from lightning_clip.core.plugins import PLUGINS_KEY, import_flags, missing_plugins

__all__ = [
    "CLASS_KEY",
    "check_location",
    "class_of_checkpoint",
    "class_path",
    "content_of",
    "explain_loading",
    "is_deepspeed_checkpoint",
    "is_in_parts",
    "is_ours",
]


def class_path(cls: type) -> str:
    """The shortest dotted name under which a class can be imported: checkpoints keep it when files move.

    Examples:
        >>> from lightning_clip.model.clip import ClipModel
        >>> class_path(ClipModel)
        'lightning_clip.ClipModel'
    """
    parts = cls.__module__.split(".")
    rooms = [".".join(parts[:length]) for length in range(1, len(parts))]
    short = (room for room in rooms if getattr(sys.modules.get(room), cls.__qualname__, None) is cls)
    return f"{next(short, cls.__module__)}.{cls.__qualname__}"


def content_of(source: Any, weights_only: bool) -> Any:
    """What a checkpoint holds, on the CPU.

    Args:
        source: a path, an address, or an open file, which is left where it was.
        weights_only: read nothing that may run code.
    """
    import torch

    if not isinstance(source, str | Path):
        place = source.tell()
        try:
            return torch.load(source, map_location="cpu", weights_only=weights_only)
        finally:
            source.seek(place)
    if "://" in str(source):
        from lightning.fabric.utilities.cloud_io import _load

        return _load(source, map_location="cpu", weights_only=weights_only)
    return torch.load(Path(source).expanduser(), map_location="cpu", weights_only=weights_only, mmap=True)


def check_location(location: Any) -> None:
    """Whether tensors can be put where a user wants them.

    Raises:
        InputError: there is no such device.
    """
    import torch

    if not isinstance(location, str | torch.device):
        return
    try:
        torch.empty(0, device=location)
    except Exception as error:  # of torch's backends
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"map_location {str(location)!r} is no device of this machine ({reason}): omit it, or use 'cpu'"
        ) from error


def class_of_checkpoint(path: Any, asked: type, weights_only: bool) -> type:
    """The class that wrote `path`, if it is `asked` or one of its subclasses.

    Only modules of this package are imported for it; a plug-in with a subclass must be imported already.

    Raises:
        InputError: another class wrote it, or one that is not imported.
    """
    content = content_of(path, weights_only)
    written = content.get(CLASS_KEY) if isinstance(content, Mapping) else None
    if written is not None:
        check_content(content, f"checkpoint {str(path)!r}")
    if written is None or written == class_path(asked):
        if written is None:
            raise InputError(
                f"checkpoint {str(path)!r} was not written by {asked.__name__}: give one written by `lightning-clip fit` "
                "or a Trainer that fitted a ClipModule"
            )
        return asked
    module, _, name = written.rpartition(".")
    if module.partition(".")[0] == "lightning_clip":
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if found is None:
        raise InputError(
            f"checkpoint {str(path)!r} was written by {written}, which is not imported: {_remedy(content, module)}"
        )
    if not issubclass(found, asked):
        raise InputError(f"checkpoint {str(path)!r} was written by {written}, not by {asked.__name__}: load it with {name}")
    return found  # type: ignore[no-any-return]


def is_ours(path: Path) -> bool:
    """Whether a `ClipModule` wrote the file, whatever it is called."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another kind of file, which its own reader explains
        return False
    return isinstance(content, dict) and CLASS_KEY in content


def is_in_parts(path: Path) -> bool:
    """Whether the ranks of a sharding strategy wrote `path`, each its own files."""
    return (path / ".metadata").is_file() or is_deepspeed_checkpoint(path)


def is_deepspeed_checkpoint(path: Path) -> bool:
    """Whether `path` is a folder that DeepSpeed wrote for Lightning."""
    return any((path / "checkpoint").glob("*model_states.pt"))


@contextmanager
def explain_loading(path: Any, wanted: type) -> Iterator[None]:
    """Turns the errors of loading `path` as `wanted` into an `InputError` with the remedy."""
    if not isinstance(path, str | Path) and not hasattr(path, "read"):
        raise InputError(f"checkpoint {path!r} is no path and no open file: give the .ckpt that `lightning-clip fit` wrote")
    local = isinstance(path, str | Path) and "://" not in str(path)
    if local and existing_path(path, "checkpoint").is_dir():
        if is_in_parts(Path(path).expanduser()):
            raise InputError(
                f"checkpoint {str(path)!r} is a folder of parts that ranks wrote: make one file of it with "
                f"lightning-clip checkpoint consolidate {path} --output FILE.ckpt"
            )
        raise InputError(f"checkpoint {str(path)!r} is a folder: name the .ckpt file in it")
    try:
        yield
    except UnknownName as error:
        raise _for_plugins(path, error) from error
    except InputError:
        raise
    except Exception as error:  # whatever a file of another kind, or other settings in it, lead to
        raise InputError(f"checkpoint {str(path)!r} {_explanation(error, wanted)}") from error


def _for_plugins(path: Any, error: UnknownName) -> InputError:
    """The error of an unknown name, with the plug-ins that the checkpoint was written with and that are not here."""
    missing = missing_plugins(content_of(path, weights_only=True).get(PLUGINS_KEY, ()))
    if not missing:
        return error
    return InputError(
        f"checkpoint {str(path)!r} needs {error.kind} {error.name!r} of a plug-in that is not imported: add "
        f"{import_flags(missing)} (in Python: import it first)"
    )


def _remedy(content: Mapping[str, Any], module: str) -> str:
    """How the class that wrote a checkpoint is imported."""
    if module == "__main__":
        return "it stands in a script, so load it there; what is trained from a module can be loaded by every command"
    return f"add {import_flags(missing_plugins(content.get(PLUGINS_KEY, ())) or [module])} (in Python: import it first)"


def _explanation(error: Exception, wanted: type) -> str:
    text = str(error)
    if "state_dict" in text:
        details = [line.strip() for line in text.splitlines()[1:]]
        mismatch = next((line for line in details if "size mismatch" in line), details[0] if details else text)
        return (
            f"does not fit {wanted.__name__}: {re.sub(r'[.]$', '', mismatch)[:200]} "
            "It was written by another class or with other arguments: load it with the class that wrote it, and no arguments."
        )
    if isinstance(error, RuntimeError | EOFError | OSError):
        return "is no complete checkpoint (truncated, or another kind of file): give one written by `lightning-clip fit`"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "holds Python objects, or is no checkpoint: reading them may run code, so they are refused. Give one written by "
            "`lightning-clip fit`"
        )
    return f"does not fit {wanted.__name__} ({type(error).__name__}: {text[:120]})"
