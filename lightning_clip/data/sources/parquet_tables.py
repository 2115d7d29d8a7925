"""Tables in parquet files, of which only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.row_store import Row

__all__ = ["parquet_columns", "read_parquet"]

_AT_ONCE = 4096  # rows, which may hold pictures


def read_parquet(path: Path, wanted: Collection[str] | None) -> Iterator[tuple[int, Row | str]]:
    """Rows by number, from 1.

    Args:
        path: the file.
        wanted: names of columns, in any case of letters, which alone are read; None reads all.

    Raises:
        InputError: a damaged file, or no pyarrow.
    """
    try:
        file = _parquet(path)
        names = file.schema_arrow.names
        if wanted is not None and not any("." in name for name in names):  # with a point in it a name may mean a field
            asked = {name.lower() for name in wanted} | {name.partition(".")[0].lower() for name in wanted}
            names = [name for name in names if name.lower() in asked] or names[:1]
        batches = file.iter_batches(_AT_ONCE, columns=names)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except InputError:
        raise
    except Exception as error:  # pyarrow raises of every kind on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"table {str(path)!r} is no parquet file that can be read ({reason}): write it again") from error


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of all columns of a file."""
    return tuple(_parquet(path).schema_arrow.names)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{str(path)!r} needs pyarrow: pip install "lightning-clip[parquet]"') from error
    return pyarrow.parquet.ParquetFile(path, memory_map=True)
