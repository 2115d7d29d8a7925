"""Training, validation and test of a folder or table that nobody has described yet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources import PairSource, TableSource, pair_sources

__all__ = ["Stages", "stages_by_names", "stages_of"]

_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
_GROUP = re.compile(
    r"(patient|subject|person|participant|animal|place|site|location|city|region|scene|tile|plot|field|product|artist|specimen|"
    r"plate|slide|group|family|case|study|item)[_ ]?(id|name|no|number)?",
    re.IGNORECASE,
)
_SPLIT_COLUMN = re.compile(r"(split|partition|fold|subset|set)", re.IGNORECASE)
_SHARES = (0.1, 0.2, 0.25)
_FEW = 1000  # pairs below which a part may come out empty, so that several seeds are tried


class Stages(NamedTuple):
    """Settings of the sources of a run.

    Attributes:
        train: of the training pairs; with a `split` it stands for the others.
        val, test: of theirs, None where there are none or `train` stands for them.
        source: the training source, opened.
        why: where the division comes from, in a few words.
    """

    train: dict[str, Any]
    val: dict[str, Any] | None
    test: dict[str, Any] | None
    source: PairSource
    why: str


def stages_of(settings: Mapping[str, Any]) -> Stages:
    """How a folder or a table is divided: as its owner did, else by a column that names patients, places or the like.

    Args:
        settings: of the source as a recipe has them, its "name" a path.

    Raises:
        InputError: the source does not open.
    """
    own = dict(settings)
    return stages_by_names(own) or _by_column(own) or _by_group(own) or _by_chance(own)


def stages_by_names(settings: dict[str, Any]) -> Stages | None:
    """Folders, tables or shards that are called train, val and test; None where there are no such.

    Args:
        settings: of the source as a recipe has them, its "name" a path.
    """
    path = Path(str(settings["name"])).expanduser()
    for candidates in _named(path):
        if "train" not in candidates or len(candidates) < 2:
            continue
        found = {part: {**settings, "name": name} for part, name in candidates.items()}
        try:
            sources = {part: pair_sources.build(spec) for part, spec in found.items()}
        except InputError:
            continue
        if sources["train"].class_names and any(s.class_names != sources["train"].class_names for s in sources.values()):
            continue
        return Stages(found["train"], found.get("val"), found.get("test"), sources["train"], "as the folder is divided")
    return None


def _named(path: Path) -> Iterator[dict[str, str]]:
    """Part -> path, for each way in which a folder may name its parts."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return
    entries = sorted(folder.iterdir())
    if path.is_dir():
        yield _of_parts({entry.name.lower(): str(entry) for entry in entries if entry.is_dir()})
        for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
            yield _of_parts({entry.stem.lower(): str(entry) for entry in entries if entry.suffix == ending})
        shards = [entry for entry in entries if entry.suffix == ".tar"]
        stems = {re.split(r"[-_.]", shard.stem.lower())[0]: shard for shard in shards}
        yield _of_parts({stem: str(folder / f"{re.split('[-_.]', s.stem)[0]}*.tar") for stem, s in stems.items()})
    elif "train" in path.name.lower():
        beside = {entry.name: str(entry) for entry in entries}
        found = {"train": str(path)}
        for part, names in _PARTS.items():
            others = [re.sub("train(ing)?", name, path.name, flags=re.IGNORECASE) for name in names if part != "train"]
            found |= next(({part: beside[name]} for name in others if name in beside), {})
        yield found


def _of_parts(known: Mapping[str, str]) -> dict[str, str]:
    return {part: known[name] for part, names in _PARTS.items() for name in names if name in known}


def _by_column(settings: dict[str, Any]) -> Stages | None:
    """A table with a column such as `split`."""
    source = pair_sources.build(settings)
    if not isinstance(source, TableSource) or settings.get("split"):
        return None
    where = dict(settings.get("where") or {})
    columns = [name for name in _columns(source) if _SPLIT_COLUMN.fullmatch(name) and name not in where]
    for column in columns:
        counts = Counter(str(row.get(column)) for row in source.rows)
        values = {part: [name for name in counts if name.lower() in names] for part, names in _PARTS.items()}
        if not values["train"] or not (values["val"] or values["test"]):
            continue
        found = {part: {**settings, "where": {**where, column: own[0]}} for part, own in values.items() if own}
        train = pair_sources.build(found["train"])
        return Stages(found["train"], found.get("val"), found.get("test"), train, f"column {column!r} says it")
    return None


def _by_group(settings: dict[str, Any]) -> Stages | None:
    """A table with a column that names patients, places, products."""
    source = pair_sources.build(settings)
    if not isinstance(source, TableSource) or settings.get("split"):
        return None
    for column in (name for name in _columns(source) if _GROUP.fullmatch(name)):
        if (found := _divided(settings, {"by": column}, len(source), table=True)) is not None:
            return found._replace(why=f"by column {column!r}, so that none of its values is in two parts")
    return None


def _by_chance(settings: dict[str, Any]) -> Stages:
    """By a hash of the image's name."""
    source = pair_sources.build(settings)
    if not source.random_access or len(source) < 4:
        return Stages(settings, None, None, source, "not divided: too few pairs, or a stream")
    table = isinstance(source, TableSource)
    found = _divided(settings, {}, len(source), table=table)
    if found is None:
        return Stages(settings, None, None, source, "not divided: too few pairs")
    return found._replace(
        why="by a hash of each image's name; where pictures of one patient or place go together, name it in by"
    )


def _divided(settings: dict[str, Any], by: dict[str, Any], count: int, *, table: bool) -> Stages | None:
    """A division of which no part is empty, with the smallest shares and seed that give one."""
    few = count < _FEW
    for share in _SHARES if few else _SHARES[:1]:
        for seed in range(8 if few else 1):
            split = {**by, "test": share, "val": share, "seed": seed}
            spec = {**settings, "split": split} if table else {"name": "divided", "source": _plain(settings), "split": split}
            try:
                parts = [pair_sources.build({**spec, "split": {**split, "part": part}}) for part in ("val", "test", "train")]
            except InputError as error:
                if "is empty" in str(error):
                    continue
                return None
            return Stages(spec, None, None, parts[-1], "")
    return None


def _plain(settings: dict[str, Any]) -> Any:
    return settings["name"] if set(settings) == {"name"} else settings


def _columns(source: TableSource) -> list[str]:
    return list(source.rows.columns or source.rows[0])
