"""Names of shards: a pattern with braces or stars to paths and URLs."""

from __future__ import annotations

from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.data.shards.addresses import check_nested, is_url, shown, without_scheme
from lightning_clip.data.shards.remote import Remote
from lightning_clip.data.shards.remote_errors import RemoteError, remedy

__all__ = ["expand_shards"]


def expand_shards(pattern: str, remote: Remote | None = None) -> list[str]:
    """Brace expansion and globbing of shard paths: "train-{000000..000099}.tar", "train-*.tar", "s3://bucket/train-*.tar".

    What follows the question mark of a URL is no pattern, and goes with each shard.

    Args:
        pattern: of paths or URLs.
        remote: settings by which remote folders are listed.

    Raises:
        InputError: nothing matches, braces that do not close, or a remote folder that cannot be listed.
    """
    from braceexpand import braceexpand

    base, mark, query = pattern.partition("?") if is_url(without_scheme(pattern)) else (pattern, "", "")
    paths: list[str] = []
    try:
        names = list(braceexpand(base))
    except ValueError as error:
        raise InputError(f"shards {shown(pattern)!r} have braces that do not close: write {{000..099}}") from error
    for name in map(without_scheme, names):
        if is_url(name):
            check_nested(name)
            paths += _remote_matches(name, mark, remote or Remote()) if "*" in name else [f"{name}{mark}{query}"]
        elif "*" in name:
            path = Path(name).expanduser()
            paths += sorted(str(found) for found in path.parent.glob(path.name))
        else:
            paths.append(str(Path(name).expanduser()))
    if not paths:
        raise InputError(f"no shard matches {shown(pattern)!r}: check the folder and the pattern")
    return paths


def _remote_matches(pattern: str, mark: str, remote: Remote) -> list[str]:
    if mark:
        raise InputError(
            f"shards {shown(pattern)!r} have stars and a query, and cannot be listed: name them by braces, {{000..099}}"
        )
    try:
        return remote.matches(pattern)
    except RemoteError as error:
        hint = ", or name the shards by braces, {000..099}" if error.lasting else ""
        raise InputError(f"{error}: the folder of shards cannot be listed, {remedy(error)}{hint}") from error
