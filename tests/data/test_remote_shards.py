"""Remote shards: what passes is tried again, what lasts is counted or said, and nothing else is taken for a shard."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import torch
from data.faulty_server import FaultyServer, serve
from data.test_shards import files, fit, pairs, tar_bytes
from fsspec.implementations.memory import MemoryFileSystem
from waiting import PATIENCE, free_port

from lightning_clip import ClipDataModule, InputError
from lightning_clip.data import ShardSource, pair_sources
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.sampler import Visit
from lightning_clip.data.shards import expand_shards, remote
from lightning_clip.data.shards.cache import ShardCache
from lightning_clip.data.shards.remote import Remote
from lightning_clip.data.shards.remote_collection import RemoteShards
from lightning_clip.data.shards.remote_errors import RemoteError
from lightning_clip.evaluation.images import Images
from lightning_clip.prompts.evaluation_sets import open_evaluation_set

QUICK = partial(Remote, tries=2, pause=0.01)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources wait no seconds between tries, and have a cache of their own."""
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lightning_clip.data.sources.shards.Remote", QUICK)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serve(files(4)) as found:
        yield found


def opened(server: FaultyServer, tmp_path: Path, **settings: Any) -> ShardSource:
    return ShardSource(f"{server.url}/{{000..003}}.tar", cache_folder=str(tmp_path / "c"), **settings)


def keys(source: ShardSource) -> list[str]:
    return [source[number].key for number in range(len(source))]


class TestPassing:
    """Another try may help: several are made, then the run ends in one line."""

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_an_answer_at_the_second_try(self, server: FaultyServer, tmp_path: Path, status: int) -> None:
        server.faults["001.tar"], server.failing = 1, status  # the first GET fails
        assert len(opened(server, tmp_path)) == 80 and server.asked["001.tar"] == 2

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("status 503", r"status 503 \(Service Unavailable\), tried 2 times"),
            ("status 429", r"status 429 \(Too Many Requests\), tried 2 times"),
            ("resets", "Server disconnected, tried 2 times"),
            ("cut", "tried 2 times"),
        ],
    )
    def test_one_line_where_it_goes_on(self, server: FaultyServer, tmp_path: Path, fault: str, reason: str) -> None:
        server.faults["002.tar"] = fault
        with pytest.raises(InputError, match=rf"^{server.url}/002.tar: .*{reason}: check the server and the network") as found:
            opened(server, tmp_path)
        assert "\n" not in str(found.value)

    def test_a_server_that_falls_silent(self, server: FaultyServer, tmp_path: Path) -> None:
        """For each file: on a busy machine one that works may be as late."""
        server.faults |= dict.fromkeys(server.files, "silent")
        with pytest.raises(InputError, match=rf"^{server.url}/000.*: no answer for 0.5 s, tried 2 times: check the server and"):
            opened(server, tmp_path, stall_seconds=0.5)

    def test_refused(self, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}/0.tar"
        with pytest.raises(InputError, match=r"0(_stats.json|\.tar): Cannot connect to host .*tried 2 times: check the server"):
            ShardSource(url)

    def test_no_such_host(self) -> None:
        with pytest.raises(InputError, match=r"http://no-such-host.invalid/0\S*: Cannot connect to host .*: check the server"):
            ShardSource("http://no-such-host.invalid/0.tar")

    def test_a_server_may_ask_for_patience(self, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server.faults["000.tar"], server.retry_after = 1, "7"
        waited: list[float] = []
        monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=waited.append))
        assert ShardCache(tmp_path, remote=QUICK()).fetch(f"{server.url}/000.tar").is_file()
        assert waited == [7]

    def test_one_shard_that_fails_stops_the_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of many shards on a server that is down the first few are asked for, and those that do not answer not waited for."""
        address, asked, told, count = f"http://127.0.0.1:{free_port()}", [], threading.Event(), RemoteShards._count

        def counted(self: RemoteShards, url: str) -> Any:
            asked.append(url)
            if url != f"{address}/0.tar":
                told.wait(PATIENCE)
            return count(self, url)

        monkeypatch.setattr(RemoteShards, "_count", counted)
        with pytest.raises(InputError, match="Cannot connect"):
            RemoteShards([f"{address}/{number}.tar" for number in range(500)], ShardCache(tmp_path, remote=QUICK()))
        told.set()
        assert len(asked) <= 17  # of which 16 wait, and the first has failed


class TestLasting:
    """Another try would not help: the samples count as bad, or there is no run."""

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_too_many_end_the_run_at_its_start(self, server: FaultyServer, tmp_path: Path, status: int) -> None:
        server.faults |= {f"00{number}.tar": f"status {status}" for number in range(3)}
        spec = {"name": f"{server.url}/{{000..003}}.tar", "cache_folder": str(tmp_path / "c")}
        with pytest.raises(
            InputError, match=rf"about 60 train samples cannot be read \({server.url}/000.tar: status {status} .*max_bad_share"
        ):
            ClipDataModule(spec, local_batch_size=10, max_bad_share=0.05).setup("fit")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_few_are_bad_samples(
        self, server: FaultyServer, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.faults["002.tar"] = "status 403"
        spec = {"name": f"{server.url}/{{000..003}}.tar", "cache_folder": str(tmp_path / "c")}
        fit(tmp_path, spec, num_workers=workers, max_bad_share=0.3)
        lost = f"{server.url}/002.tar: status 403 (Forbidden)"
        assert f"1 of 4 shards cannot be read, their samples (about 20) count as bad: {lost}" in caplog.text
        assert f"train data: 20 samples were skipped: 20 x {lost}" in caplog.text

    def test_a_mix_knows_what_its_parts_lost(self, server: FaultyServer, tmp_path: Path) -> None:
        server.faults["003.tar"] = "missing"
        spec = {"name": f"{server.url}/{{000..003}}.tar", "cache_folder": str(tmp_path / "c")}
        mixed = pair_sources.build({"name": "mix", "sources": [spec, {"name": "synthetic", "size": 10}]})
        assert len(mixed) == 90 and dict(mixed.lost()) == {f"{server.url}/003.tar: status 404 (Not Found)": 20}

    def test_an_evaluation_set_is_whole(self, server: FaultyServer, tmp_path: Path) -> None:
        server.faults["003.tar"] = "missing"
        spec = {"name": f"{server.url}/{{000..003}}.tar", "cache_folder": str(tmp_path / "c"), "retrieval": True}
        with pytest.raises(InputError, match=r"about 20 samples of the evaluation set cannot be read \(.*/003.tar: status 404"):
            open_evaluation_set(spec)

    @pytest.mark.parametrize(
        ("status", "remedy"), [(401, "give a token or other credentials by storage_options"), (404, "check the address")]
    )
    def test_all_of_them(self, server: FaultyServer, tmp_path: Path, status: int, remedy: str) -> None:
        server.faults |= dict.fromkeys(server.files, f"status {status}")
        with pytest.raises(
            InputError, match=rf"no shard can be read: {server.url}/000.tar: status {status} .*\(3 more shards.*\): {remedy}"
        ):
            opened(server, tmp_path)

    def test_asked_once_more_only_later(self, server: FaultyServer, tmp_path: Path) -> None:
        server.faults["000.tar"] = "missing"
        cache = ShardCache(tmp_path, remote=QUICK())
        for _ in range(3):
            with pytest.raises(RemoteError, match=r"000.tar: status 404 \(Not Found\)$"):
                cache.fetch(f"{server.url}/000.tar")
        del server.faults["000.tar"]
        cache._lost[f"{server.url}/000.tar"] = (time.monotonic() - 301, RemoteError(""))
        assert cache.fetch(f"{server.url}/000.tar").is_file()

    def test_gone_where_its_count_is_known(self, server: FaultyServer, tmp_path: Path) -> None:
        opened(server, tmp_path)
        next((tmp_path / "c").glob("*-001.tar")).unlink()
        server.faults["001.tar"] = "missing"
        assert dict(opened(server, tmp_path).lost()) == {f"{server.url}/001.tar: status 404 (Not Found)": 20}

    def test_gone_where_there_is_a_copy(self, server: FaultyServer, tmp_path: Path) -> None:
        opened(server, tmp_path)
        server.faults |= dict.fromkeys(server.files, "missing")
        assert len(keys(opened(server, tmp_path))) == 80


class TestNoTar:
    """What is no tar archive is neither kept nor counted."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"<!DOCTYPE html><p>Please log in", r"is a page and no tar archive \('<!DOCTYPE html><p>Please log in'\)"),
            (b'{"error": "login"}', "is a page and no tar archive"),
            (b"\x1f\x8b\x08" + bytes(600), "is compressed, and shards far away must not be"),
            (b"abc" * 300, r"is no tar archive \(it begins with b'abcabc"),
            (b"", "is no tar archive"),
        ],
    )
    def test_the_url_is_named(self, server: FaultyServer, tmp_path: Path, content: bytes, reason: str) -> None:
        server.files["001.tar"] = content
        source = opened(server, tmp_path)
        (lost,) = source.lost()
        assert lost.startswith(f"{server.url}/001.tar: is ") and str(tmp_path) not in lost and len(source) == 80
        with pytest.raises(OSError, match=reason):
            source[25]
        assert len(list((tmp_path / "c").glob("*.tar"))) == 3 and not list((tmp_path / "c").glob(".0*"))

    def test_a_copy_that_was_damaged_here(self, server: FaultyServer, tmp_path: Path) -> None:
        opened(server, tmp_path)
        (copy,) = (tmp_path / "c").glob("*-002.tar")
        status = copy.stat()
        copy.write_bytes(b"x" * status.st_size)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.with_name(f"{copy.name}.index").unlink()
        assert len(set(keys(opened(server, tmp_path)))) == 80


class TestTransfers:
    @pytest.mark.parametrize("fault", ["gzip", "chunked", "endless"])
    def test_without_a_length(self, server: FaultyServer, tmp_path: Path, fault: str) -> None:
        server.faults |= dict.fromkeys(server.files, fault)
        source = opened(server, tmp_path)
        assert sorted(keys(source)) == [f"{1000 * shard + number:06d}" for shard in range(4) for number in range(20)]
        copies = sorted((tmp_path / "c").glob("*.tar"), key=lambda path: path.name[-7:])
        assert [copy.read_bytes() for copy in copies] == list(server.files.values())

    def test_cut_without_a_length(self, server: FaultyServer, tmp_path: Path) -> None:
        server.faults["001.tar"] = "ends early"
        with pytest.raises(InputError, match="001.tar: the server states no length, and what came is broken after '0010"):
            opened(server, tmp_path)

    def test_large_and_slow(self, tmp_path: Path) -> None:
        """More than the buffers hold; what was written by a longer try before is cut off."""
        content = tar_bytes({"0.jpg": os.urandom(20 << 20), "0.txt": b"noise"})
        with serve({"0.tar": content}) as server:
            (tmp_path / "x").write_bytes(bytes(len(content) + 999))
            Remote().download(f"{server.url}/0.tar", tmp_path / "x", len(content))
            assert (tmp_path / "x").read_bytes() == content and server.asked["0.tar"] == 1

    def test_folder_that_never_answers(self, server: FaultyServer) -> None:
        server.faults[""] = "silent"
        with pytest.raises(
            InputError, match=rf"{server.url}/t-\*.tar: no answer for 0.5 s, tried 2 times: the folder .* cannot be listed"
        ):
            expand_shards(f"{server.url}/t-*.tar", QUICK(stall=0.5))


class TestPatterns:
    def test_stars(self, server: FaultyServer) -> None:
        assert expand_shards(f"{server.url}/00[0-1]*.tar") == [f"{server.url}/000.tar", f"{server.url}/001.tar"]
        with pytest.raises(InputError, match=r"no shard matches 'http:.*/x-\*.tar'"):
            expand_shards(f"{server.url}/x-*.tar")

    @pytest.mark.parametrize(("status", "hint"), [(404, "check the address"), (403, "storage_options"), (503, "run again")])
    def test_a_folder_that_cannot_be_listed(self, server: FaultyServer, status: int, hint: str) -> None:
        server.faults[""] = f"status {status}"
        with pytest.raises(
            InputError, match=rf"{server.url}/\*.tar: status {status} .*: the folder of shards cannot be listed, .*{hint}"
        ):
            expand_shards(f"{server.url}/*.tar", QUICK())

    def test_a_host_that_refuses_to_be_listed(self) -> None:
        with pytest.raises(InputError, match=r"\*.tar: Cannot connect to host .*: the folder of shards cannot be listed"):
            expand_shards(f"http://127.0.0.1:{free_port()}/*.tar", QUICK())

    def test_a_query_is_no_pattern_and_not_shown(self, server: FaultyServer, tmp_path: Path) -> None:
        source = ShardSource(f"{server.url}/{{000..001}}.tar?sig=a{{b*c", cache_folder=str(tmp_path / "c"))
        assert len(source) == 40 and source.place(25) == f"sample 5 of {server.url}/001.tar?..."
        with pytest.raises(InputError, match=r"/009.tar\?\.\.\.: status 404") as found:
            ShardSource(f"{server.url}/009.tar?sig=hidden")
        assert "hidden" not in str(found.value)
        with pytest.raises(InputError, match=r"have stars and a query, and cannot be listed: name them by braces"):
            expand_shards(f"{server.url}/*.tar?sig=a")

    def test_braces_that_do_not_close(self) -> None:
        with pytest.raises(InputError, match=r"'http://x/\{0..9.tar' have braces that do not close"):
            expand_shards("http://x/{0..9.tar")

    def test_schemes_in_capitals(self, server: FaultyServer) -> None:
        assert len(pair_sources.build(f"{server.url.upper()}/000.tar")) == 20

    def test_addresses_of_this_machine(self, tmp_path: Path) -> None:
        (tmp_path / "0.tar").write_bytes(tar_bytes(pairs(0, 3)))
        for name in (f"file://{tmp_path}/0.tar", f"FILE://localhost{tmp_path}/{{0..0}}.tar", f"file://{tmp_path}"):
            assert len(pair_sources.build(name)) == 3
        assert len(pair_sources.build({"name": "shards", "path": f"file://{tmp_path}/*.tar"})) == 3
        with pytest.raises(InputError, match="names the machine 'server'"):
            pair_sources.build("file://server/0.tar")

    def test_a_url_that_is_no_shard(self) -> None:
        with pytest.raises(InputError, match=r"'https://host/folder' is no address of shards: .*\{000..099\}.tar"):
            pair_sources.build("https://host/folder")


class TestVersions:
    def test_changed_at_equal_size(self, server: FaultyServer, tmp_path: Path) -> None:
        server.etags["000.tar"] = '"one"'
        assert keys(opened(server, tmp_path))[:20] == [f"{number:06d}" for number in range(20)]
        changed = tar_bytes(dict(reversed(pairs(500, 20).items())))
        server.files["000.tar"], server.etags["000.tar"] = changed.ljust(len(server.files["000.tar"]), b"\0"), '"two"'
        assert len(server.files["000.tar"]) == len(files(1)["000.tar"])
        assert sorted(keys(opened(server, tmp_path))[:20]) == [f"{number:06d}" for number in range(500, 520)]
        assert server.asked == {"000.tar": 2, "001.tar": 1, "002.tar": 1, "003.tar": 1}

    def test_changed_where_only_the_index_is_left(self, server: FaultyServer, tmp_path: Path) -> None:
        server.etags["000.tar"] = '"one"'
        opened(server, tmp_path)
        for copy in (tmp_path / "c").glob("*.tar"):
            copy.unlink()
        server.files["000.tar"], server.etags["000.tar"] = tar_bytes(pairs(500, 7)), '"two"'
        assert len(opened(server, tmp_path)) == 67

    def test_changed_while_a_run_reads_it(self, server: FaultyServer, tmp_path: Path) -> None:
        server.etags["000.tar"] = '"one"'
        source = opened(server, tmp_path)
        assert source[3].key == "000003"
        next((tmp_path / "c").glob("*-000.tar")).unlink()  # another process needed the room
        server.files["000.tar"], server.etags["000.tar"] = tar_bytes(pairs(500, 20)), '"two"'
        assert source[3].key == "000503" and source[19].captions == ("picture 519",)

    def test_the_same_is_not_fetched_again(self, server: FaultyServer, tmp_path: Path) -> None:
        server.etags |= dict.fromkeys(server.files, '"one"')
        for _ in range(3):
            assert len(keys(opened(server, tmp_path))) == 80
        assert set(server.asked.values()) == {1}

    def test_without_a_network(self, server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        opened(server, tmp_path)
        server.faults |= dict.fromkeys(server.files, "status 503")
        with caplog.at_level(logging.WARNING):
            assert len(keys(opened(server, tmp_path))) == 80
        assert caplog.text.count("going on with the copies in") == 1


class TestCacheFolder:
    def test_a_file_in_its_place(self, server: FaultyServer, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("a file")
        with pytest.raises(InputError, match=r"cache_folder '.*/c' cannot be written \(.*\): give a cache_folder of your own"):
            opened(server, tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_without_the_right_to_write(self, server: FaultyServer, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir(mode=0o500)
        with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
            opened(server, tmp_path)

    def test_a_refused_write(self, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied", "lock")

        monkeypatch.setattr("lightning_clip.data.shards.cache.FileLock", refuse)
        with pytest.raises(InputError, match=r"cache_folder .* cannot be written \(Permission denied\)"):
            opened(server, tmp_path)

    def test_a_folder_that_others_fill(self, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened(server, tmp_path)

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("lightning_clip.data.shards.cache_files.os.utime", refuse)
        assert len(keys(opened(server, tmp_path))) == 80

    def test_too_many_open_files_are_no_fault_of_the_shard(
        self, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr("lightning_clip.data.shards.remote.copied", refuse)
        with pytest.raises(InputError, match="too many files are open: raise the limit"):
            opened(server, tmp_path)


class EndpointConnectionError(Exception):
    """As botocore's: no OSError."""


class FaultyStore(MemoryFileSystem):
    """A store whose client has exceptions of its own."""

    protocol = "faulty"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    fault: Exception | None = None

    def _open(self, path: str, *arguments: Any, **settings: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return super()._open(path, *arguments, **settings)

    def info(self, path: str, **settings: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return super().info(path, **settings)

    ls = info


class TestStores:
    """S3 and others, by way of fsspec: their errors are of any kind."""

    @pytest.fixture(autouse=True)
    def store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec.register_implementation("faulty", FaultyStore, clobber=True)
        monkeypatch.setattr(FaultyStore, "fault", None)
        for name, content in files(3).items():
            fsspec.filesystem("faulty").pipe_file(f"/bucket/{name}", content)

    def test_an_endpoint_that_is_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            FaultyStore, "fault", EndpointConnectionError('Could not connect to the endpoint URL: "http://s3/bucket"')
        )
        for pattern in ("faulty://bucket/000.tar", "faulty://bucket/*.tar"):
            with pytest.raises(InputError, match=r"faulty:///?bucket/.*Could not connect to the endpoint URL.*, tried 2 times"):
                ShardSource(pattern, cache_folder=str(tmp_path / "c"))

    @pytest.mark.parametrize("status", [403, 404])
    def test_an_answer_in_another_form(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        refused = PermissionError("Access Denied")
        refused.__cause__ = EndpointConnectionError("An error occurred")
        refused.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
        monkeypatch.setattr(FaultyStore, "fault", refused)
        with pytest.raises(InputError, match=f"no shard can be read: faulty://bucket/000.tar: status {status}"):
            ShardSource("faulty://bucket/000.tar", cache_folder=str(tmp_path / "c"))

    def test_no_credentials(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class NoCredentialsError(Exception):
            pass

        monkeypatch.setattr(FaultyStore, "fault", NoCredentialsError("Unable to locate credentials"))
        with pytest.raises(InputError, match=r"000.tar: Unable to locate credentials: check .* storage_options"):
            ShardSource("faulty://bucket/000.tar", cache_folder=str(tmp_path / "c"))

    def test_a_folder_in_the_place_of_a_shard(self, tmp_path: Path) -> None:
        fsspec.filesystem("faulty").mkdir("/bucket/009.tar")
        with pytest.raises(InputError, match=r"no shard can be read: faulty://bucket/009.tar: status 404"):
            ShardSource("faulty://bucket/009.tar", cache_folder=str(tmp_path / "c"))

    def test_s3_itself(self) -> None:
        pytest.importorskip("s3fs", reason="s3fs is not installed")
        once = {"config_kwargs": {"retries": {"max_attempts": 0}}}
        options = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "key": "k", "secret": "s", **once}
        with pytest.raises(RemoteError, match=r"000.tar: Could not connect to the endpoint URL.*tried 2 times") as found:
            Remote(tries=2, pause=0.01, stall=30, storage_options=options).info("s3://bucket/000.tar")
        assert not found.value.lasting

    def test_options_that_it_does_not_know(self, tmp_path: Path) -> None:
        class Strict(MemoryFileSystem):  # type: ignore[misc]
            protocol = "strict"

            def __init__(self, token: str = "") -> None:
                super().__init__()

        fsspec.register_implementation("strict", Strict, clobber=True)
        with pytest.raises(InputError, match="'strict://b/0.tar' does not take the storage_options tokn: .*unexpected keyword"):
            ShardSource("strict://b/0.tar", cache_folder=str(tmp_path / "c"), storage_options={"tokn": "x"})

    def test_what_is_not_installed_or_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"'nonsense://b/0.tar' cannot be opened: .*[Pp]rotocol"):
            ShardSource("nonsense://b/0.tar", cache_folder=str(tmp_path / "c"))


class TestWhatIsKept:
    """A shard that cannot be read this time must not be missing for ever from what is written."""

    @pytest.fixture
    def source(self, server: FaultyServer, tmp_path: Path) -> ShardSource:
        """Its third shard was counted, is gone from the cache, and its server fails by now."""
        source = opened(server, tmp_path)
        next((tmp_path / "c").glob("*-002.tar")).unlink()
        server.faults["002.tar"] = "status 503"
        return source

    def test_packing_stops(self, source: ShardSource, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"002.tar: status 503 .*tried 2 times: check the server"):
            pack_shards(source, str(tmp_path / "out-%06d.tar"))
        assert not list(tmp_path.glob("out-*.tar"))

    def test_evaluation_stops(self, source: ShardSource) -> None:
        with pytest.raises(InputError, match=r"002.tar: status 503 .*tried 2 times: check the server"):
            [Images(source, torch.nn.Identity())[Visit(0, number)] for number in range(45)]

    def test_training_counts_it(self, source: ShardSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        fit(tmp_path, source, max_bad_share=0.5)
        assert "train data: 20 samples were skipped: 20 x http://" in caplog.text
