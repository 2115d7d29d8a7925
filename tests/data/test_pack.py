"""Packing: every pair is written or named, shards are whole or absent, and a killed run ends in the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pictures import encoded, gradient
from PIL import Image
from small import write_folder
from waiting import exit_code

from lightning_clip import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data import ShardSource, TableSource, pair_sources
from lightning_clip.data.decoding import decode
from lightning_clip.data.pack_shards import PackOptions, pack_shards
from lightning_clip.data.sources import PairSource


class Made(PairSource):
    """Pairs from a list; those whose image is None cannot be read.

    Args:
        pairs: the list.
        killed_at: place of a pair whose reading is the end of the process, by SIGKILL.
    """

    def __init__(self, pairs: list[Pair | None], killed_at: int | None = None) -> None:
        self.pairs, self.killed_at = pairs, killed_at

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        if index == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if (pair := self.pairs[index]) is None:
            raise OSError("image file missing")
        return pair


def made(count: int, **changes: Pair | None) -> Made:
    pairs: list[Pair | None] = [
        Pair(encoded(gradient(40 + number, 30), "JPEG"), (f"text {number}",), f"k{number}") for number in range(count)
    ]
    for place, pair in changes.items():
        pairs[int(place[1:])] = pair
    return Made(pairs)


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


class TestPack:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_every_pair_is_written_or_named(self, tmp_path: Path, workers: int) -> None:
        source = made(
            23,
            _3=Pair(b"no picture", ("x",), "broken"), _9=None, _10=Pair(encoded(gradient(), "PNG"), (), "silent"),
            _20=Pair(encoded(gradient(45, 30), "JPEG"), ("again",), "repeat"),
        )  # fmt: skip
        options = PackOptions(check=True, dedupe=True, hash=True)
        summary = pack_shards(source, str(tmp_path / "s-%02d.tar"), 5, options=options, workers=workers)
        assert dict(summary.dropped) == {"not an image": 1, "image file missing": 1, "no caption": 1, "duplicate image": 1}
        assert summary.pairs + sum(summary.dropped.values()) == 23 and len(summary.shards) == 5
        lost = [entry for path in sorted(tmp_path.glob("*_stats.json")) for entry in json.loads(path.read_text())["lost"]]
        assert [entry[0] for entry in lost] == [3, 9, 10, 20]
        shards = ShardSource(str(tmp_path / "s-*.tar"))
        assert len(shards) == 19 and shards[0].captions == ("text 0",)
        image = source.pairs[0].image  # type: ignore[union-attr]
        assert shards[0].metadata["sha256"] == hashlib.sha256(image).hexdigest()  # type: ignore[arg-type]

    def test_workers_write_the_same_bytes(self, tmp_path: Path) -> None:
        for workers in (1, 2):
            pack_shards(made(20), str(tmp_path / str(workers) / "s-%d.tar"), 6, workers=workers)
        assert digest(tmp_path / "1") == digest(tmp_path / "2") != {}

    def test_what_a_pair_knows_survives(self, tmp_path: Path) -> None:
        pair = Pair(
            encoded(gradient(), "PNG"), ("a", "b"), "name", label=1, metadata={"class_name": "dog", "url": "u", "raw": b"x"},
            weights=(0.5, 2.0),
        )  # fmt: skip
        pack_shards(Made([pair]), str(tmp_path / "s-%d.tar"))
        found = ShardSource(str(tmp_path / "s-0.tar"))[0]
        assert (found.image, found.captions, found.label, found.weights) == (pair.image, ("a", "b"), 1, (0.5, 2.0))
        assert found.metadata["class_name"] == "dog" and found.metadata["url"] == "u" and "raw" not in found.metadata

    @pytest.mark.parametrize(("encode", "kind"), [(None, "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
    def test_resized_and_encoded(self, tmp_path: Path, encode: str | None, kind: str) -> None:
        source = Made(
            [Pair(encoded(gradient(80, 60), "PNG"), ("large",), "1"), Pair(encoded(gradient(20, 15), "JPEG"), ("small",), "2")]
        )
        pack_shards(source, str(tmp_path / "s-%d.tar"), options=PackOptions(resize=30, encode=encode))
        large, small = (Image.open(io.BytesIO(ShardSource(str(tmp_path / "s-0.tar"))[number].image)) for number in range(2))  # type: ignore[arg-type]
        assert large.size == (40, 30) and small.size == (20, 15) and large.format == kind
        assert small.format == (kind if encode else "JPEG")
        if encode is None:
            assert ShardSource(str(tmp_path / "s-0.tar"))[1].image == source.pairs[1].image  # type: ignore[union-attr]

    def test_every_source(self, tmp_path: Path, shared_data: Path) -> None:
        """Emoji with transparency: bytes stay, or become what decoding makes of them."""
        source = TableSource(str(shared_data / "noto_emoji/captions.jsonl"), "images_72.tar", caption_column=["en", "zh"])
        from lightning_clip.data.sources import Subset

        few = Subset(source, range(0, len(source), 40))
        pack_shards(few, str(tmp_path / "s-%d.tar"), 20, workers=2)
        shards = ShardSource(str(tmp_path / "*.tar"))
        assert len(shards) == len(few)
        for number in range(len(few)):
            assert shards[number].image == few[number].image and shards[number].captions == few[number].captions

    def test_killed_and_run_again(self, tmp_path: Path) -> None:
        """A real SIGKILL in the middle: the second run keeps what is whole, and all bytes are as without it."""
        pack_shards(made(24), str(tmp_path / "whole/s-%d.tar"), 4)
        pattern = str(tmp_path / "killed/s-%d.tar")
        deadly = made(24)
        deadly.killed_at = 10  # in the middle of the third of six shards
        process = multiprocessing.get_context("fork").Process(target=pack_shards, args=(deadly, pattern, 4))
        process.start()
        assert exit_code(process) == -signal.SIGKILL
        assert sorted(digest(tmp_path / "killed")) == ["s-0.tar", "s-1.tar"]
        summary = pack_shards(made(24), pattern, 4)
        assert summary.kept == 2 and summary.pairs == 24
        assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
        assert not [path for path in (tmp_path / "killed").iterdir() if ".partial" in path.name]

    def test_nothing_to_do(self, tmp_path: Path) -> None:
        pattern = str(tmp_path / "s-%d.tar")
        pack_shards(made(6), pattern, 3)
        times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.tar"))]
        again = pack_shards(made(6), pattern, 3)
        assert again.kept == 2 and again.pairs == 6
        assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.tar"))] == times

    def test_errors(self, tmp_path: Path) -> None:
        source = pair_sources.build(str(write_folder(tmp_path / "folder")))
        pattern = str(tmp_path / "s-%d.tar")
        cases: list[tuple[str, dict[str, Any]]] = [
            ("shard pattern '.*x.tar' needs one number", {"pattern": str(tmp_path / "x.tar")}),
            ("pairs_per_shard 0 and workers 1 must be at least 1", {"pattern": pattern, "pairs_per_shard": 0}),
            ("no pair could be packed: the source is empty", {"source": Made([]), "pattern": pattern}),
            (
                "no pair could be packed: {'image file missing': 1}",
                {"source": Made([None]), "pattern": str(tmp_path / "e-%d.tar")},
            ),
        ]
        for message, arguments in cases:
            with pytest.raises(InputError, match=message):
                pack_shards(**{"source": source, **arguments})
        pack_shards(source, pattern)
        with pytest.raises(InputError, match="s-0.tar' exists already, packed from other data or with other settings"):
            pack_shards(source, pattern, options=PackOptions(check=True))
        (tmp_path / "s-0_stats.json").unlink()
        with pytest.raises(InputError, match="s-0.tar' exists already: remove the old shards"):
            pack_shards(source, pattern)
        for message, options in [
            ("resize 0 must be at least 1 pixel", {"resize": 0}),
            ("unknown encode 'jpeg': did you mean 'jpg'", {"encode": "jpeg"}),
            ("quality 0 must be in 1..100", {"quality": 0}),
        ]:
            with pytest.raises(InputError, match=message):
                PackOptions(**options)

    def test_counts_for_remote_readers(self, tmp_path: Path) -> None:
        """The report beside a shard is the one that img2dataset writes, which spares fetching a shard to count it."""
        pack_shards(made(7, _2=None), str(tmp_path / "s-%d.tar"), 4)
        stats = [json.loads((tmp_path / f"s-{number}_stats.json").read_text()) for number in range(2)]
        assert [(found["count"], found["successes"]) for found in stats] == [(4, 3), (3, 3)]
        assert decode(ShardSource(str(tmp_path / "*.tar"))[5].image).shape == (3, 30, 46)
