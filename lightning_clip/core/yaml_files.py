"""YAML files of settings, with `${...}` resolved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.plugins import require_plugins

__all__ = ["read_mapping"]


def read_mapping(path: str | Path | None, what: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file as a plain mapping, without its `imports`, which must have been imported.

    Args:
        path: of the file; None for the overrides alone.
        what: it is, for messages ("suite").
        overrides: such as "balance.most=500", which override the file's.

    Raises:
        InputError: no such file, no YAML, no mapping, a reference to nothing, or a plug-in that `--import` has to name.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where = f"{what} {str(path)!r}"
    try:
        content: Any = OmegaConf.from_dotlist(list(overrides))
        if path is not None:
            content = OmegaConf.merge(OmegaConf.load(existing_path(path, what)), content)
        found = OmegaConf.to_container(content, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} must be a mapping of settings")
    folder = Path() if path is None else Path(path).expanduser().parent
    require_plugins(found.pop("imports", None), where, folder)
    return {str(key): value for key, value in found.items()}
