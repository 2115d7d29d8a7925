"""Shards: the index says what the archive holds, nothing is read twice or lost, and every fault ends in one clear line."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import pickle
import resource
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from corners import corners
from data.faulty_server import serve
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small import small_module, small_trainer
from waiting import PATIENCE, exit_code

from lightning_clip import ClipDataModule, InputError
from lightning_clip.data import ShardSource
from lightning_clip.data.order import Windowed
from lightning_clip.data.shards import TarReader, build_index, open_index
from lightning_clip.data.shards.cache import ShardCache
from lightning_clip.data.shards.files import OpenFiles
from lightning_clip.data.shards.index import TarIndex, split_name
from lightning_clip.data.shards.remote import Remote
from lightning_clip.data.shards.remote_errors import RemoteError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(folder))
    return folder


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 32), (number * 37 % 256, number // 7 % 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_bytes(members: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pairs(first: int, count: int) -> dict[str, bytes]:
    return {
        name: content
        for number in range(first, first + count)
        for name, content in ((f"{number:06d}.jpg", jpeg(number)), (f"{number:06d}.txt", f"picture {number}".encode()))
    }


def write_shards(folder: Path, counts: list[int]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        (folder / f"{shard:03d}.tar").write_bytes(tar_bytes(pairs(1000 * shard, count)))
    return str(folder / "*.tar")


class TestIndex:
    @pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    def test_same_as_tarfile_and_webdataset(self, tmp_path: Path, kind: int) -> None:
        """Long names, folders, dots, odd letters: compared with both libraries, read from the front to the end."""
        import webdataset

        names = ["a/1.jpg", "a/1.txt", "a/1.seg.png", "b.c/x.JPG", "b.c/x.txt", "语.jpg", "语.json", "q.txt", "r.jpg"]
        if kind != tarfile.USTAR_FORMAT:
            names += [f"{'long/' * 40}9.jpg", f"{'long/' * 40}9.txt"]
        members = {name: b'{"caption": "c"}' if name.endswith("json") else name.encode() * 3 for name in names}
        path = tmp_path / "odd.tar"
        path.write_bytes(tar_bytes(members, kind))
        reader = TarReader(path)
        with tarfile.open(path) as archive:
            assert reader.names() == archive.getnames()
            for name in names:
                assert reader.read(name) == archive.extractfile(name).read()  # type: ignore[union-attr]
        expected = {}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            found = {key: value for key, value in sample.items() if not key.startswith("__")}
            if "jpg" in found and {"txt", "json"} & set(found):
                expected[sample["__key__"]] = found
        assert dict(reader.sample(number) for number in range(len(reader))) == expected
        assert reader.index.header.dropped == {"no image": 1, "no caption": 1}

    def test_made_once_and_anew_when_the_shard_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tar_bytes(pairs(0, 3)))
        assert len(open_index(path)) == 3
        made = (tmp_path / "x.tar.index").stat().st_mtime_ns
        assert len(open_index(path)) == 3 and (tmp_path / "x.tar.index").stat().st_mtime_ns == made
        path.write_bytes(tar_bytes(pairs(0, 5)))
        assert len(open_index(path)) == 5
        same_size = tar_bytes(pairs(7, 5))
        path.write_bytes(same_size)
        os.utime(path, ns=(0, made + 10**9))  # only the time tells
        assert TarReader(path).sample(0)[0] == "000007"

    def test_read_only_folder(self, tmp_path: Path, own_cache: Path) -> None:
        folder = tmp_path / "fixed"
        folder.mkdir()
        (folder / "x.tar").write_bytes(tar_bytes(pairs(0, 3)))
        folder.chmod(0o555)
        try:
            assert len(ShardSource(str(folder / "x.tar"))) == 3
            assert [entry.name for entry in folder.iterdir()] == ["x.tar"] and len(list(own_cache.rglob("*.index"))) == 1
        finally:
            folder.chmod(0o755)

    def test_broken_or_foreign_index_is_made_again(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tar_bytes(pairs(0, 3)))
        for content in (b"", b"something else", (open_index(path).path and Path(f"{path}.index").read_bytes()[:1100])):
            Path(f"{path}.index").write_bytes(content)
            assert len(open_index(path)) == 3
        Path(f"{path}.index").write_bytes(b"x")
        with pytest.raises(ValueError, match="is no index of this version"):
            TarIndex(f"{path}.index")

    def test_many_processes_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tar_bytes(pairs(0, 200)))
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = pool.map_async(_count, [str(path)] * 8).get(timeout=PATIENCE)
        assert found == [200] * 8 and not list(tmp_path.glob("*.lock"))

    @given(cut=st.floats(0.02, 0.999))
    @settings(max_examples=25, deadline=None)
    def test_cut_anywhere(self, cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A cut archive gives exactly the samples whose files are whole, and says that it was cut."""
        folder = tmp_path_factory.mktemp("cut")
        whole = tar_bytes(pairs(0, 12)).rstrip(b"\0")
        length = max(1600, int(len(whole) * cut))
        (folder / "x.tar").write_bytes(whole[:length])
        header = build_index(folder / "x.tar", folder / "i")
        assert header.fault is not None
        index = TarIndex(folder / "i")
        for number in range(len(index)):
            assert all(member.offset + member.size <= length for member in index.sample(number))

    def test_names(self) -> None:
        assert split_name("x/y.z/0.Seg.PNG") == ("x/y.z/0", "Seg.png") and split_name("0") == ("0", "")


def _count(path: str) -> int:
    return len(open_index(path))


class TestOpenFiles:
    def test_few_descriptors(self, tmp_path: Path) -> None:
        files = OpenFiles(most=5)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(40):
            (tmp_path / str(number)).write_bytes(f"{number:04d}".encode())
            assert files.read(str(tmp_path / str(number)), 1, 3) == f"{number:03d}".encode()
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5

    def test_shortened(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"abc")
        with pytest.raises(OSError, match="file became shorter while in use: x"):
            OpenFiles().read(str(tmp_path / "x"), 1, 5)


class TestShardSource:
    @given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any))
    @settings(max_examples=20, deadline=None)
    def test_every_sample_by_number(self, counts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
        source = ShardSource(write_shards(tmp_path_factory.mktemp("shards"), counts))
        expected = [f"{1000 * shard + number:06d}" for shard, count in enumerate(counts) for number in range(count)]
        assert [source[number].key for number in range(len(source))] == expected
        assert [source.captions(number) for number in range(len(source))] == [(f"picture {int(key)}",) for key in expected]
        with pytest.raises(IndexError):
            source[len(source)]

    def test_one_process_and_other_files_of_one_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder, first in (("one", 0), ("two", 500), ("one", 900)):
            (tmp_path / folder).mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / folder)
            Path("x.tar").unlink(missing_ok=True)
            Path("x.tar").write_bytes(tar_bytes({"a.json": b"{}", **pairs(first, 3 + first // 100)}))
            source = ShardSource("x.tar")
            assert [source.captions(number)[0] for number in range(3)] == [f"picture {first + number}" for number in range(3)]
            assert source[2].key == f"{first + 2:06d}"
            monkeypatch.chdir(tmp_path)
            assert source[1].key == f"{first + 1:06d}"

    def test_small_to_pickle(self, tmp_path: Path) -> None:
        source = ShardSource(write_shards(tmp_path, [50] * 4))
        size = len(pickle.dumps(source))
        assert size < 3000 and pickle.loads(pickle.dumps(source))[199].key == "003049"

    def test_img2dataset(self, tmp_path: Path) -> None:
        """What img2dataset writes: json records with more fields, failures without an image, stats and parquet beside."""
        members = {}
        for number in range(4):
            key = f"00000{number:04d}"
            record = {"caption": f"caption {number}", "url": "http://x/1.jpg", "key": key, "status": "success", "width": 40}
            if number != 2:
                members[f"{key}.jpg"] = jpeg(number)
                members[f"{key}.txt"] = record["caption"].encode()  # type: ignore[union-attr]
            members[f"{key}.json"] = json.dumps(record).encode()
        (tmp_path / "00000.tar").write_bytes(tar_bytes(members))
        (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 3}))
        source = ShardSource(str(tmp_path / "*.tar"))
        assert [source[number].captions for number in range(3)] == [("caption 0",), ("caption 1",), ("caption 3",)]
        assert source[0].metadata["url"] == "http://x/1.jpg"

    def test_weights_and_bad_json(self, tmp_path: Path) -> None:
        good = json.dumps({"caption": ["a", "b"], "weights": [0.9, 0.1]}).encode()
        members = {"0.jpg": jpeg(0), "0.json": good, "1.jpg": jpeg(1), "1.json": b"{"}
        (tmp_path / "x.tar").write_bytes(tar_bytes(members))
        source = ShardSource(str(tmp_path / "x.tar"))
        assert source[0].captions == ("a", "b") and source[0].weights == (0.9, 0.1)
        with pytest.raises(ValueError, match="caption file is no JSON"):
            source[1]

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="window 0 must be at least 1 shard"):
            ShardSource("http://x/1.tar", window=0)
        with pytest.raises(InputError, match="local and remote ones: name them as two sources of a mix"):
            ShardSource("{http://x/1,local/2}.tar")
        with pytest.raises(InputError, match="cache_gigabytes 0 must be positive"):
            ShardSource("http://x/1.tar", cache_gigabytes=0)
        with pytest.raises(InputError, match="'nonsense://x/1.tar' cannot be opened: .*[Pp]rotocol"):
            ShardSource("nonsense://x/1.tar")


def fit(folder: Path, source: Any, **data: Any) -> None:
    """An epoch over a source, with as small a model as there is."""
    module = ClipDataModule(source, **{"local_batch_size": 10, "max_bad_share": 0.05, **data})
    small_trainer(folder, max_epochs=1, max_steps=-1).fit(small_module(), module)


class TestFaults:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_percent_of_corrupt_images(self, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
        members = pairs(0, 200)
        for number, content in ((17, b"no image"), (150, jpeg(3)[:300])):
            members[f"{number:06d}.jpg"] = content
        (tmp_path / "x.tar").write_bytes(tar_bytes(members))
        fit(tmp_path, str(tmp_path / "x.tar"), num_workers=workers)
        assert "train data: 2 samples were skipped" in caplog.text

    def test_truncated_shard(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pattern = write_shards(tmp_path, [20, 20])
        whole = (tmp_path / "001.tar").read_bytes()
        (tmp_path / "001.tar").write_bytes(whole[: len(whole) // 2 + 300])
        with caplog.at_level(logging.WARNING):
            fit(tmp_path, pattern)
        used = len(TarReader(tmp_path / "001.tar"))
        assert 5 < used < 15 and f"what stands before is used, {used} samples" in caplog.text

    def test_shortened_while_in_use(self, tmp_path: Path) -> None:
        pattern = write_shards(tmp_path, [40])
        source = ShardSource(pattern)
        source[0]
        os.truncate(tmp_path / "000.tar", 30_000)
        with pytest.raises(InputError, match=r"could not be used \(.*file became shorter while in use: 000.tar"):
            fit(tmp_path, source)

    def test_shard_without_captions(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pattern = write_shards(tmp_path, [20, 0])
        (tmp_path / "001.tar").write_bytes(tar_bytes({f"{number}.jpg": jpeg(number) for number in range(30)}))
        fit(tmp_path, pattern)
        assert "20 samples are used; omitted: 30 with no caption (1 of 2 shards hold no pair)" in caplog.text

    def test_no_shard_has_captions(self, tmp_path: Path) -> None:
        (tmp_path / "0.tar").write_bytes(tar_bytes({f"{number}.jpg": jpeg(number) for number in range(30)}))
        with pytest.raises(InputError, match=r"hold no sample with an image and a text \(30 with no caption\)"):
            fit(tmp_path, str(tmp_path / "*.tar"))


def remote(urls: str, cache: Path, **settings_: Any) -> dict[str, Any]:
    return {"name": urls, "cache_folder": str(cache), **settings_}


def files(shards: int, count: int = 20) -> dict[str, bytes]:
    return {f"{shard:03d}.tar": tar_bytes(pairs(1000 * shard, count)) for shard in range(shards)}


class TestRemote:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_every_sample_once_through_a_small_cache(self, tmp_path: Path, workers: int) -> None:
        """Six shards, room for about three: shards are removed and nothing is lost."""
        content = files(6)
        room = 3.5 * len(content["000.tar"]) / 1e9
        with serve(content) as server:
            spec = remote(f"{server.url}/{{000..005}}.tar", tmp_path / "c", cache_gigabytes=room, window=1)
            data = ClipDataModule(spec, local_batch_size=10, num_workers=workers).attach(small_module())
            keys = [key for batch in data.train_dataloader() for key in batch.keys]
        assert sorted(keys) == sorted(f"{1000 * shard + number:06d}" for shard in range(6) for number in range(20))
        assert len(list((tmp_path / "c").glob("*.tar"))) <= 4 and len(list((tmp_path / "c").glob("*.index"))) == 6

    def test_counted_even_if_removed_at_once(self, tmp_path: Path) -> None:
        """So many at once that each is removed as soon as it is there."""
        content = files(6)
        with serve(content) as server:
            room = 0.5 * len(content["000.tar"]) / 1e9
            source = ShardSource(f"{server.url}/{{000..005}}.tar", cache_folder=str(tmp_path / "c"), cache_gigabytes=room)
            assert len(source) == 120 and not list((tmp_path / "c").glob("*.tar"))

    def test_one_transfer_for_many_readers(self, tmp_path: Path) -> None:
        with serve(files(2)) as server:
            cache = ShardCache(tmp_path / "c")
            with multiprocessing.get_context("fork").Pool(4) as pool:
                jobs = [(cache, f"{server.url}/00{number % 2}.tar") for number in range(8)]
                found = pool.starmap_async(_fetch, jobs).get(timeout=PATIENCE)
            assert server.asked == {"000.tar": 1, "001.tar": 1} and all(path.exists() for path in found)

    def test_counts_without_fetching(self, tmp_path: Path) -> None:
        stats = {f"{shard:03d}_stats.json": json.dumps({"count": 25, "successes": 20}).encode() for shard in range(3)}
        with serve({**files(3), **stats}) as server:
            source = ShardSource(f"{server.url}/{{000..002}}.tar", cache_folder=str(tmp_path / "c"))
            assert len(source) == 60 and not any(name.endswith(".tar") for name in server.asked)
            assert source[59].key == "002019" and server.asked["002.tar"] == 1

    def test_fewer_than_announced(self, tmp_path: Path) -> None:
        stats = {"000_stats.json": json.dumps({"successes": 22}).encode()}
        with serve({**files(1), **stats}) as server:
            source = ShardSource(f"{server.url}/000.tar", cache_folder=str(tmp_path / "c"))
            with pytest.raises(OSError, match="shard holds fewer samples than were announced"):
                source[21]

    def test_index_survives_the_shard(self, tmp_path: Path) -> None:
        with serve(files(1)) as server:
            spec = {"path": f"{server.url}/000.tar", "cache_folder": str(tmp_path / "c")}
            ShardSource(**spec)
            next((tmp_path / "c").glob("*.tar")).unlink()
            assert len(ShardSource(**spec)) == 20 and server.asked["000.tar"] == 1

    def test_other_file_systems_and_stars(self, tmp_path: Path) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        for name, content in files(2).items():
            memory.pipe_file(f"/bucket/{name}", content)
        source = ShardSource("memory://bucket/*.tar", cache_folder=str(tmp_path / "c"))
        assert len(source) == 40 and isinstance(source.order(0), Windowed)

    def test_tried_again(self, tmp_path: Path) -> None:
        with serve(files(1), {"000.tar": 2}) as server:
            cache = ShardCache(tmp_path / "c", remote=Remote(pause=0.01))
            assert cache.fetch(f"{server.url}/000.tar").read_bytes() == files(1)["000.tar"]

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("missing", r"000.tar: status 404 \(Not Found\)$"),
            ("cut", "000.tar: .*, tried 2 times"),
            ("stalls", "000.tar: no (byte came|answer) for 0.3 s, tried 2 times"),  # a busy machine may not get to the bytes
        ],
    )
    def test_faults(self, tmp_path: Path, fault: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
        with serve(files(1), {"000.tar": fault}) as server:
            cache = ShardCache(tmp_path / "c", remote=Remote(tries=2, stall=0.3 if fault == "stalls" else 60.0, pause=0.01))
            url = f"{server.url}/000.tar"
            with pytest.raises(RemoteError, match=reason):
                cache.fetch(url)
            asked = server.asked["000.tar"]
            with pytest.raises(RemoteError, match=reason):
                cache.fetch(url)  # known by now: the samples of a shard do not each wait for it
            assert server.asked["000.tar"] == asked
        assert url in caplog.text and not list((tmp_path / "c").glob("*.tar"))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_training_goes_on_without_a_vanished_shard(
        self, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        stats = {f"{shard:03d}_stats.json": json.dumps({"successes": 20}).encode() for shard in range(5)}
        with serve({**files(5), **stats}, {"003.tar": "missing"}) as server:
            spec = remote(f"{server.url}/{{000..004}}.tar", tmp_path / "c")
            fit(tmp_path, spec, num_workers=workers, max_bad_share=0.25)
            assert f"train data: 20 samples were skipped: 20 x {server.url}/003.tar: status 404 (Not Found)" in caplog.text

    def test_training_stops_where_too_much_vanished(self, tmp_path: Path) -> None:
        stats = {f"{shard:03d}_stats.json": json.dumps({"successes": 20}).encode() for shard in range(2)}
        with serve({**files(2), **stats}, {"001.tar": "missing"}) as server:
            spec = remote(f"{server.url}/{{000..001}}.tar", tmp_path / "c")
            with pytest.raises(InputError, match=r"001.tar: status 404 \(Not Found\).*more than max_bad_share 0.05 allows"):
                fit(tmp_path, spec)

    def test_full_disk(self, tmp_path: Path) -> None:
        """A real refused write, by a limit on the size of files in a process of its own."""
        with serve(files(1)) as server:
            answers = multiprocessing.get_context("fork").SimpleQueue()
            process = multiprocessing.get_context("fork").Process(
                target=_fetch_with_a_full_disk, args=(f"{server.url}/000.tar", tmp_path / "c", answers)
            )
            process.start()
            assert exit_code(process) == 0
            assert "cannot be written to" in (text := answers.get()) and "set a smaller cache_gigabytes" in text
        assert not list((tmp_path / "c").glob(".*.tar.*"))


def _fetch(cache: ShardCache, url: str) -> Path:
    return cache.fetch(url)


def _fetch_with_a_full_disk(url: str, folder: Path, answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        ShardCache(folder).fetch(url)
    except InputError as error:
        answers.put(str(error))


@pytest.mark.parametrize("examples", corners([8, 25], 8))
def test_coverage(examples: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through real loaders: each sample once over all ranks; in training less than one global batch is left out."""

    @given(
        counts=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
        ranks=st.integers(1, 3),
        workers=st.sampled_from([0, 0, 1, 2, 3]),
        batch=st.integers(1, 5),
        train=st.booleans(),
        epoch=st.integers(0, 3),
    )
    @settings(max_examples=examples, deadline=None)
    def check(counts: list[int], ranks: int, workers: int, batch: int, train: bool, epoch: int) -> None:
        pattern = write_shards(tmp_path_factory.mktemp("shards"), counts)
        total = sum(counts)
        if total < ranks * (batch if train else 1):
            return
        seen: list[int] = []
        for rank in range(ranks):
            with patch("lightning_clip.data.sampler.world", return_value=(rank, ranks)):
                data = ClipDataModule(pattern, pattern, local_batch_size=batch, num_workers=workers).attach(_MODULE)
                loader = data.train_dataloader() if train else data.val_dataloader()
                loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
                seen += [index for found in loader for index in found.index.tolist()]
        expected = total // (ranks * batch) * ranks * batch if train else total
        assert len(seen) == len(set(seen)) == expected

    check()


_MODULE = small_module()


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any),
    window=st.integers(1, 10),
    seed=st.integers(0, 2**60),
    cut=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_windows(counts: list[int], window: int, seed: int, cut: float) -> None:
    """A permutation, whatever part of it is asked for; a window holds samples of `window` shards at most."""
    order = Windowed(counts, window, seed)
    total = sum(counts)
    whole = order.samples(3, 0, total)
    assert sorted(whole.tolist()) == list(range(total))
    middle = int(total * cut)
    assert np.array_equal(np.concatenate([order.samples(3, 0, middle), order.samples(3, middle, total)]), whole)
    shard_of = np.repeat(np.arange(len(counts)), counts)[whole]
    for place in range(total):
        assert shard_of[place] in order.upcoming(3, place)[:window]
