"""Streams: what their resume guarantees is kept, and what fails is said."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from corners import corners
from data.test_shards import pairs, tar_bytes, write_shards
from distributed.killed import Plan, records, train
from small import small_module, small_trainer

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.data import pair_sources
from lightning_clip.data.streaming import StreamSource


def keys(data: ClipDataModule, epoch: int = 0) -> list[list[str]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [batch.keys for batch in loader]


def stream(folder: Path, workers: int = 0, samples: int = 80, **settings: object) -> ClipDataModule:
    spec = {"name": f"pipe:cat {folder}/{{000..003}}.tar", "samples": samples, "streams": 2, "buffer": 8, **settings}
    return ClipDataModule(spec, local_batch_size=8, num_workers=workers).attach(small_module())


class TestStream:
    def test_same_order_with_any_number_of_workers(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [20] * 4)
        found = keys(stream(tmp_path), epoch=3)
        assert found == keys(stream(tmp_path, workers=2), epoch=3) == keys(stream(tmp_path, workers=3), epoch=3)
        assert found != keys(stream(tmp_path), epoch=4)
        # Two streams of equal length, ten batches: each sample once.
        assert sorted(key for batch in found for key in batch) == sorted(
            f"{1000 * s + n:06d}" for s in range(4) for n in range(20)
        )

    def test_a_short_stream_begins_again(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [4] * 4)
        counts = Counter(key for batch in keys(stream(tmp_path)) for key in batch)
        assert len(counts) == 16 and set(counts.values()) == {5}

    @pytest.mark.parametrize(("workers", "others"), corners([(0, 0), (2, 0), (0, 2)], (2, 0)))
    def test_killed_and_resumed(self, tmp_path: Path, workers: int, others: int) -> None:
        write_shards(tmp_path / "shards", [20] * 4)

        def plan(number: int) -> Plan:
            def make() -> tuple[ClipModule, ClipDataModule]:
                return small_module(), stream(tmp_path / "shards", number)

            return Plan(make, steps=14)

        assert train(plan(0), tmp_path / "whole") == 0
        assert train(plan(workers), tmp_path / "killed", kill=(8, "batch_start")) == -signal.SIGKILL
        assert train(plan(others), tmp_path / "killed", resume=True) == 0
        assert records(tmp_path / "killed", 1) == records(tmp_path / "whole", 1)

    def test_a_failing_command_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_shards(tmp_path, [20] * 4)
        whole = (tmp_path / "002.tar").read_bytes()
        (tmp_path / "002.tar").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "003.tar").unlink()
        assert len(keys(stream(tmp_path))) == 10
        assert "002.tar ended early" in caplog.text and "003.tar ended early" in caplog.text

    def test_nothing_comes(self, tmp_path: Path) -> None:
        data = ClipDataModule({"name": "pipe:true {0..3}", "samples": 80}, local_batch_size=8)
        with pytest.raises(InputError, match="none of the 8 samples of a batch could be used.*stream gave no pair"):
            small_trainer(tmp_path).fit(small_module(), data)

    def test_pairs_without_text_are_passed_over(self, tmp_path: Path) -> None:
        members = {**pairs(0, 5), "x.jpg": b"1", "y.txt": b"2"}
        (tmp_path / "0.tar").write_bytes(tar_bytes(members))
        dealt = StreamSource(f"pipe:cat {tmp_path}/0.tar", 5, streams=1, buffer=1).dealt(0, 5, 0, 1)
        assert sorted(dealt[number].key for number in range(5)) == [f"{number:06d}" for number in range(5)]

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not know its length: give samples"):
            pair_sources.build("pipe:cat x")
        with pytest.raises(InputError, match="buffer 0: use 1 or more"):
            StreamSource("pipe:cat x", 3, buffer=0)
        with pytest.raises(InputError, match="has 1 shards for 4 streams on 1 ranks: set streams to at most 1"):
            ClipDataModule({"name": "pipe:cat x", "samples": 80}, local_batch_size=8).attach(small_module()).train_dataloader()
        with pytest.raises(InputError, match="has no samples by number: it is for training only"):
            StreamSource("pipe:cat x", 3)[0]
        with pytest.raises(InputError, match="a stream is for training only"):
            ClipDataModule(val={"name": "pipe:cat x", "samples": 8}).attach(small_module()).val_dataloader()
