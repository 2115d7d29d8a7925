"""Faults of the machine end a run: samples that were skipped for them would be missing for ever."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from data.test_shards import pairs, tar_bytes
from forked import forked
from small import small_module, small_trainer

from lightning_clip import ClipDataModule, InputError, Pair
from lightning_clip.core.errors import reason_of
from lightning_clip.data import PairSource, ShardSource
from lightning_clip.data.inspect import inspect_pairs
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.shards.files import open_files
from lightning_clip.data.sources.table_files import table_files
from lightning_clip.data.verify import verify_pairs


class Failing(PairSource):
    """Its sixth sample meets a fault of the machine."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Pair:
        if index == 5:
            raise OSError(self.number, "said by the system", "photos/5.jpg")
        from data.test_shards import jpeg

        return Pair(jpeg(index), ("a picture",), str(index))


NUMBERS = {
    errno.EMFILE: "too many files are open",
    errno.ENOSPC: "no space left",
    errno.EIO: "drive failed",
    errno.ESTALE: "drive",
}


@pytest.mark.parametrize("number", NUMBERS)
def test_whoever_reads_stops(number: int, tmp_path: Path) -> None:
    message = rf"reading photos/5.jpg: .*{NUMBERS[number]}"
    source = Failing(number)
    for use in (inspect_pairs, verify_pairs, lambda source: pack_shards(source, str(tmp_path / "x-%d.tar"))):
        with pytest.raises(InputError, match=message):
            use(source)  # type: ignore[operator]
    assert not list(tmp_path.glob("*.tar"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit_stops(workers: int, tmp_path: Path) -> None:
    data: Any = ClipDataModule(Failing(errno.EMFILE), local_batch_size=16, num_workers=workers, max_bad_share=1.0)
    with pytest.raises(InputError, match=r"reading photos/5.jpg: too many files are open: raise the limit of open files"):
        small_trainer(tmp_path, max_steps=2).fit(small_module(), data)


def test_other_faults_are_the_sample_s() -> None:
    assert reason_of(FileNotFoundError("image file missing")) == "image file missing"
    assert reason_of(PermissionError(errno.EACCES, "Permission denied")).endswith("Permission denied")


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    """150 shards with 64 open files: `data pack` wrote 108 of 600 pairs and ended with 0."""
    for shard in range(150):
        (tmp_path / f"{shard:03d}.tar").write_bytes(tar_bytes(pairs(4 * shard, 4)))
    ShardSource(str(tmp_path / "*.tar"))  # the indexes

    def packed() -> None:
        open_files.close()  # a fork has those of all tests
        os.closerange(3, 1 << 16)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        found = pack_shards(ShardSource(str(tmp_path / "*.tar")), str(tmp_path / "out" / "x-%d.tar"))
        print(found.pairs, dict(found.dropped))

    found = forked(packed, folder=tmp_path)
    assert found.returncode == 0 and found.stdout.splitlines()[-1] == "600 {}", found.stderr[-500:]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table matches '.*part-\\*.parquet': check the folder and the pattern"):
        table_files(str(tmp_path / "part-*.parquet"))
    with pytest.raises(InputError, match="holds no parquet files: name the table in it"):
        table_files(str(tmp_path))
