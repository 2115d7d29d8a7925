"""Training, validation and test of sources that are divided by a value: each stage gets its part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.data.sources.split_parts import Split

__all__ = ["with_part", "with_parts"]

_INSIDE = ("source", "sources")  # settings of sources around others


def with_part(spec: Any, part: str) -> Any:
    """A source's settings with `part` filled in wherever it, or a source inside of it, is divided and names no part.

    Args:
        spec: what any source may be; what is no mapping is handed back.
        part: "train", "val" or "test".

    Examples:
        >>> with_part({"name": "notes.csv", "split": {"by": "patient", "test": 0.1}}, "test")["split"]
        {'by': 'patient', 'test': 0.1, 'part': 'test'}
    """
    if isinstance(spec, list | tuple):
        return [with_part(one, part) for one in spec]
    if not isinstance(spec, Mapping):
        return spec
    found = {key: with_part(value, part) if key in _INSIDE else value for key, value in spec.items()}
    split = found.get("split")
    if isinstance(split, Mapping) and split.get("part") is None:
        found["split"] = {**split, "part": part}
    return found


def with_parts(train: Any, val: Any, test: Any) -> dict[str, Any]:
    """The settings of all three stages; a divided `train` gives the others, where they are not given and have a share.

    Args:
        train, val, test: what any source may be, or None.
    """
    given = {"train": train, "val": val, "test": test}
    split = train.get("split") if isinstance(train, Mapping) else None
    if isinstance(split, Mapping):
        shares = Split.of(split)
        for part in ("val", "test"):
            if given[part] is None and getattr(shares, part) > 0 and shares.part in (None, "train"):
                given[part] = {**train, "split": {**split, "part": part}}
    return {part: with_part(spec, part) for part, spec in given.items()}
