"""Damaged files of data: one line or a counted sample, never a traceback, and no memory by what they say of themselves."""

from __future__ import annotations

import io
import random
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile.mutations import mutated
from pictures import encoded, gradient

from lightning_clip import InputError
from lightning_clip.data import pair_sources
from lightning_clip.data.shards.files import open_files
from lightning_clip.data.shards.reader import TarReader, index_path


def write_tar(path: Path, pairs: int = 4) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in range(pairs):
            for name, content in ((f"{number}.png", encoded(gradient(8, 8), "PNG")), (f"{number}.txt", b"a dog")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def read_all(path: Path) -> None:
    """Opens a source and reads each pair; faults of a sample are ValueError or OSError, faults of the file InputError."""
    try:
        source = pair_sources.build(str(path))
    except InputError:
        return
    for index in range(len(source)):
        try:
            source[index]
        except (ValueError, OSError):
            continue


def _jsonl(path: Path) -> bytes:
    (path.parent / "a.png").write_bytes(encoded(gradient(8, 8), "PNG"))
    return b'{"image": "a.png", "caption": "a dog"}\n' * 4


def _parquet(path: Path) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"image": [encoded(gradient(8, 8), "PNG")] * 4, "caption": ["a dog", "a cat", "a bird", "an owl"]}
    parquet.write_table(pyarrow.table(rows), path)
    return path.read_bytes()


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "a.tar": lambda path: write_tar(path).read_bytes(),
    "a.jsonl": _jsonl,
    "a.csv": lambda path: _jsonl(path) and b"image,caption\na.png,a dog\na.png,a cat\n",
    "a.parquet": _parquet,
}


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", MAKERS)
def test_mutated(name: str, seed: int, tmp_path: Path) -> None:
    path, rng = tmp_path / name, random.Random(f"{name} {seed}")
    content = MAKERS[name](path)
    path.write_bytes(mutated(content, rng))
    read_all(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_index_is_made_again(seed: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar")
    whole = [TarReader(path).sample(number) for number in range(4)]
    place = index_path(str(path))
    place.write_bytes(mutated(place.read_bytes(), random.Random(seed)))
    reader = TarReader(path, warn=False)
    assert [reader.sample(number) for number in range(len(reader))] == whole


def test_no_memory_is_taken_for_a_size_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for offset, size in ((0, 1 << 62), (1 << 62, 3), (0, -1), (2, 2)):
        with pytest.raises(OSError, match="file became shorter while in use: a"):
            open_files.read(str(tmp_path / "a"), offset, size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


@pytest.mark.parametrize("size", [b"77777777777\0", b"\xff" * 12, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"])
def test_sizes_in_tar_headers(size: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar")
    content = bytearray(path.read_bytes())
    content[1024 + 512 - 512 + 124 : 1024 + 124 + 12] = size  # of the second member's header
    header = content[1024:1536]
    header[148:156] = b" " * 8
    content[1024 + 148 : 1024 + 156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(content)
    read_all(path)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"image": "a.png", "caption": "a", "n": ' + "9" * 6000 + "}"])
def test_json_lines_without_end(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(_jsonl(path) + line.encode() + b"\n")
    with pytest.raises(InputError, match="line 5 of .*a.jsonl' is no JSON that can be read .nested too deep"):
        pair_sources.build(str(path))


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(InputError, match="a.parquet' is no parquet file that can be read .*: write it again"):
        pair_sources.build(str(tmp_path / "a.parquet"))
