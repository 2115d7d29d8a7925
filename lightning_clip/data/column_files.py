"""Column values in files: `.npy` arrays, `.wav` sounds and videos, read when asked for, written when pairs are packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.npy_files import npy_bytes, read_npy
from lightning_clip.data.videos import VIDEO_EXTENSIONS, read_video
from lightning_clip.data.waves import read_wave, wave_rate

__all__ = ["COLUMN_EXTENSIONS", "ColumnFile", "Columns", "column_members", "column_name", "sample_rates"]

COLUMN_EXTENSIONS = ("npy", "wav", *VIDEO_EXTENSIONS)


class ColumnFile:
    """A value that is still a file; its bytes are read once, when they are asked for.

    Args:
        extension: one of `COLUMN_EXTENSIONS`.
        read: gives the bytes.
        sampling: which frames a video's value has; None takes the defaults.
    """

    def __init__(self, extension: str, read: Callable[[], bytes], sampling: FrameSampling | None = None) -> None:
        self.extension, self.sampling = extension, sampling
        self._read = read
        self._content: bytes | None = None

    def content(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: the file cannot be read.
        """
        if self._content is None:
            self._content = self._read()
        return self._content

    def value(self) -> Any:
        """The array, the sound as float32 (channels, samples) in [-1, 1], or frames uint8 (T, 3, H, W).

        Raises:
            OSError: the file cannot be read.
            ValueError: what it holds cannot.
        """
        if self.is_video:
            return read_video(self.content(), self.sampling)
        return read_npy(self.content()) if self.extension == "npy" else read_wave(self.content())[0]

    @property
    def is_video(self) -> bool:
        """Whether its value is frames."""
        return self.extension in VIDEO_EXTENSIONS

    def sampled(self, sampling: FrameSampling) -> ColumnFile:
        """The same file with other frames as its value.

        Args:
            sampling: which ones.
        """
        return ColumnFile(self.extension, self._read, sampling)


class Columns(Mapping[str, Any]):
    """Column -> value, a file's value being decoded each time it is asked for: what no tower reads costs nothing.

    Args:
        values: values, or a `ColumnFile`; those that are None are absent.

    Examples:
        >>> columns = Columns({"gps": (48.9, 2.4), "depth": ColumnFile("npy", lambda: npy_bytes([[0.5, 0.7]]))})
        >>> columns["depth"], list(columns)
        (array([[0.5, 0.7]]), ['gps', 'depth'])
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        """The value.

        Raises:
            KeyError: no such column.
            ValueError: a file that cannot be read; the message names the column and says why.
            OSError: a file that is missing.
        """
        value = self._values[name]
        if not isinstance(value, ColumnFile):
            return value
        with _named(name):
            return value.value()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values  # without reading a file

    def files(self) -> dict[str, ColumnFile]:
        """Those that are files."""
        return {name: value for name, value in self._values.items() if isinstance(value, ColumnFile)}


def column_name(extension: str) -> str | None:
    """The column that a shard's member holds, told by what follows its sample's key; None where it holds none.

    Examples:
        >>> column_name("depth.npy"), column_name("wav"), column_name("mp4"), column_name("jpg")
        ('depth', 'wav', 'video', None)
    """
    name, _, last = extension.rpartition(".")
    if last not in COLUMN_EXTENSIONS:
        return None
    return name or ("video" if last in VIDEO_EXTENSIONS else last)


def column_members(columns: Mapping[str, Any], check: bool = False) -> dict[str, bytes]:
    """What packing writes of columns, by what follows the sample's key: files as they are, other values as `.npy` files.

    Args:
        columns: of a pair.
        check: decode the files, too.

    Raises:
        ValueError: a value that is no array, a file that does not decode, or a name that cannot be part of a file's.
        OSError: a file that cannot be read.

    Examples:
        >>> list(column_members({"gps": (48.9, 2.4)}))
        ['gps.npy']
    """
    files = columns.files() if isinstance(columns, Columns) else {}
    found = {}
    for name in columns:
        if not name or name[0] in "_." or any(sign in name for sign in "/\\\0\n"):
            raise ValueError(f"column {name!r} cannot be part of a file's name: give it another in the source's columns")
        if name not in files:
            if columns[name] is not None:
                with _named(name):
                    found[f"{name}.npy"] = npy_bytes(columns[name])
            continue
        with _named(name):
            found[f"{name}.{files[name].extension}"] = files[name].content()
            if check:
                files[name].value()
    return found


@contextmanager
def _named(column: str) -> Iterator[None]:
    """Names the column in what is said of its value."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"column {column!r} has no file") from error
    except ValueError as error:
        raise ValueError(f"column {column!r} {error}") from error


def sample_rates(columns: Mapping[str, Any]) -> dict[str, int]:
    """For a pair's metadata, "NAME.sample_rate" of each column that is a readable `.wav`, in hertz."""
    found = {}
    for name, file in columns.files().items() if isinstance(columns, Columns) else ():
        if file.extension == "wav":
            try:
                found[f"{name}.sample_rate"] = wave_rate(file.content())
            except OSError:
                continue  # said when the value is asked for
    return {name: rate for name, rate in found.items() if rate is not None}
