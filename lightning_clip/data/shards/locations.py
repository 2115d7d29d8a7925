"""Names of shards: a pattern with braces or stars to paths and URLs."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_clip.core.errors import InputError

__all__ = ["expand_shards", "is_url"]

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")


def is_url(path: str) -> bool:
    """Whether a shard is read over a network (or any fsspec file system) rather than from a local path.

    Examples:
        >>> is_url("s3://bucket/train-000000.tar"), is_url("shards/train-000000.tar")
        (True, False)
    """
    return bool(_URL.match(path))


def expand_shards(pattern: str) -> list[str]:
    """Brace expansion and globbing of shard paths: "train-{000000..000099}.tar", "train-*.tar", "s3://bucket/train-*.tar".

    Raises:
        InputError: nothing matches.
    """
    from braceexpand import braceexpand

    paths: list[str] = []
    for name in braceexpand(pattern):
        if is_url(name):
            paths += _remote_matches(name) if "*" in name else [name]
        elif "*" in name:
            path = Path(name).expanduser()
            paths += sorted(str(found) for found in path.parent.glob(path.name))
        else:
            paths.append(str(Path(name).expanduser()))
    if not paths:
        raise InputError(f"no shard matches {pattern!r}: check the folder and the pattern")
    return paths


def _remote_matches(pattern: str) -> list[str]:
    from lightning_clip.data.shards.remote import file_system

    system, path = file_system(pattern)
    return sorted(system.unstrip_protocol(found) for found in system.glob(path))
