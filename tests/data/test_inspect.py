"""Inspecting and verifying: counts are those of a plain loop, and every fault is found and named."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data.test_pack import Made, made
from data.test_shards import jpeg, pairs, tar_bytes
from pictures import encoded, gradient
from PIL import Image
from small import write_folder

from lightning_clip.cli import main
from lightning_clip.core.types import Pair
from lightning_clip.data import ShardSource, TableSource, pair_sources
from lightning_clip.data.inspect import inspect_pairs
from lightning_clip.data.sources import Subset
from lightning_clip.data.verify import verify_pairs


class TestInspect:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_counts(self, workers: int) -> None:
        source = made(
            250, _3=Pair(b"x", ("a b c",), "3"), _7=Pair(encoded(gradient(9, 5), "PNG"), ("text 1", "text 2"), "7", label=4)
        )
        source.pairs[100] = source.pairs[99]
        found = inspect_pairs(source, images=1000, shown=10, workers=workers)
        assert (found.pairs, found.captions, found.captions_per_image) == (250, 251, (1, 2))
        assert found.words == (2, 3) and found.duplicate_captions == 3 and found.labels == 1
        assert found.broken == Counter({"not an image": 1}) and found.broken_samples == [("sample 3", "not an image")]
        assert found.looked_at == 250 and found.sizes[9, 5] == 1 and found.duplicate_images == 1 and len(found.samples) == 10

    def test_languages(self) -> None:
        texts = [
            "a dog runs over the green grass",
            "two people stand near the water",
            "一只狗在草地上奔跑",
            "eine Frau geht mit ihrem Kind über die Straße",
        ]
        found = inspect_pairs(Made([Pair(jpeg(0), (text,), "k") for text in texts]))
        assert (
            found.languages is not None and found.languages["en"] == 2 and found.languages["zh"] == found.languages["de"] == 1
        )

    def test_flickr8k(self, shared_data: Path) -> None:
        source = TableSource(str(shared_data / "flickr8k/captions.jsonl"), "images_144.tar", caption_column="en")
        found = inspect_pairs(Subset(source, range(0, 8000, 100)))
        assert found.captions == 400 and found.captions_per_image == (5, 5) and not found.broken
        assert min(map(min, found.sizes)) == 144


class TestVerify:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_all_faults(self, tmp_path: Path, workers: int) -> None:
        members = pairs(0, 30)
        members["000004.jpg"] = jpeg(4)[:-20]
        members["000009.txt"] = b"  "
        members |= {"lonely.jpg": jpeg(1), "000040.jpg": jpeg(2), "000040.json": b"{"}
        (tmp_path / "0.tar").write_bytes(tar_bytes(members))
        (tmp_path / "1.tar").write_bytes(tar_bytes(pairs(5, 3)))
        cut = tar_bytes(pairs(100, 8))
        (tmp_path / "2.tar").write_bytes(cut[: len(cut) // 2])
        found = verify_pairs(ShardSource(str(tmp_path / "*.tar")), workers=workers)
        reasons = {reason.split(" after ")[0].split(" inside ")[0]: count for reason, count in found.reasons.items()}
        assert reasons.pop("shard is truncated", 0) + reasons.pop("shard is broken", 0) == 1
        assert reasons == {
            "truncated image": 1, "no caption": 1, "caption file is no JSON": 1, "1 samples with no caption": 1,
            "key occurs more than once": 3,
        }  # fmt: skip

    def test_whole(self, tmp_path: Path) -> None:
        assert verify_pairs(TableSource(str(write_folder(tmp_path)))).faults == []


class TestCommands:
    """In this process; the arguments are those of docs/concepts/data.md."""

    def test_inspect(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = str(write_folder(tmp_path, count=20))
        (tmp_path / "3.jpg").write_bytes(b"spoilt")
        assert main(["data", "inspect", "--data", table, "--output", str(tmp_path / "sheet.html"), "--workers", "2"]) == 0
        printed, page = capsys.readouterr().out, (tmp_path / "sheet.html").read_text()
        assert "broken: not an image" in printed and "line 4 of " in printed and "captions.jsonl: not an image" in printed
        assert "<img" in page and "Samples to look at" in page and "http" not in page.partition("<body")[2]
        assert main(["data", "inspect", "--data", table, "--output", str(tmp_path / "sheet.png")]) == 0
        assert (tmp_path / "sheet.png").stat().st_size > 5000

    def test_captions_that_cannot_be_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        members = {name: content for name, content in pairs(0, 20).items() if not name.endswith("3.txt")}
        shard = tmp_path / "s.tar"
        shard.write_bytes(tar_bytes(dict(sorted({**members, "000003.json": b'{"cap', "000013.txt": b"a dog"}.items()))))
        assert main(["data", "inspect", "--data", str(shard), "--output", str(tmp_path / "sheet.png")]) == 0
        assert "s.tar: caption file is no JSON" in capsys.readouterr().out
        vocabulary = ["--vocab-size", "300", "--output", str(tmp_path / "t.json")]
        assert main(["tokenizer", "train", "--data", str(shard), *vocabulary]) == 0
        assert "from 19 captions" in capsys.readouterr().out

    def test_verify(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = str(write_folder(tmp_path, count=20))
        assert main(["data", "verify", "--data", table]) == 0
        assert "all 20 pairs can be used" in capsys.readouterr().out
        os.truncate(tmp_path / "3.jpg", 300)
        with pytest.raises(SystemExit) as stop:
            main(["data", "verify", "--data", table, "--output", str(tmp_path / "broken.jsonl")])
        assert stop.value.code == 1 and "line 4 of" in capsys.readouterr().out
        first, *_ = (tmp_path / "broken.jsonl").read_text().splitlines()
        assert json.loads(first)["place"].startswith("line 4 of ")

    def test_pack(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = str(write_folder(tmp_path / "f", count=20))
        (tmp_path / "f/3.jpg").write_bytes(b"spoilt")
        arguments = ["data", "pack", "--data", table, "--output", str(tmp_path / "s-%d.tar"), "--pairs-per-shard", "8"]
        assert main([*arguments, "--check", "--resize", "16", "--encode", "webp", "--hash", "--dedupe", "--workers", "2"]) == 0
        printed = capsys.readouterr().out
        assert "pairs (" in printed and "not an image" in printed
        assert main([*arguments, "--check", "--resize", "16", "--encode", "webp", "--hash", "--dedupe"]) == 0
        assert "3 of them by an earlier run" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--where", "x"], "--where 'x' must be COLUMN=VALUE"),
            (["--set", "x"], "--set 'x' must be KEY=VALUE"),
            (["--set", "delimeter=;"], "has no setting 'delimeter': did you mean 'delimiter'"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        table = str(write_folder(tmp_path))
        assert main(["data", "verify", "--data", table, *more]) == 2
        assert message in capsys.readouterr().err


class TestPlaces:
    def test_line_of_a_table(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        (tmp_path / "1.jpg").write_bytes(b"no image")
        (tmp_path / "t.csv").write_text('image,caption\n0.jpg,"two\nlines"\n\n1.jpg,broken\n2.jpg,b\n')
        source = TableSource(str(tmp_path / "t.csv"))
        (fault,) = verify_pairs(source).faults
        assert fault == (f"line 5 of {tmp_path / 't.csv'}", "1.jpg", "not an image")
        assert inspect_pairs(source).to_look_at()[0] == (fault.place, "not an image")

    def test_row_of_parquet_files(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        write_folder(tmp_path)
        for number in range(2):
            rows = [{"image": f"{number}.jpg", "caption": "a"}, {"image": f"gone{number}.jpg", "caption": "b"}]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"part-{number}.parquet")
        source = TableSource(str(tmp_path / "part-*.parquet"))
        assert [fault.place for fault in verify_pairs(source).faults] == [
            f"row 2 of {tmp_path / 'part-0.parquet'}",
            f"row 2 of {tmp_path / 'part-1.parquet'}",
        ]

    def test_sample_of_a_shard(self, tmp_path: Path) -> None:
        members = pairs(0, 5)
        members["000003.jpg"] = b"no image"
        (tmp_path / "a.tar").write_bytes(tar_bytes(pairs(10, 13)))
        (tmp_path / "b.tar").write_bytes(tar_bytes(members))
        (fault,) = verify_pairs(ShardSource(str(tmp_path / "*.tar"))).faults
        assert fault.place == f"sample 3 of {tmp_path / 'b.tar'}" and fault.key == "000003"


def test_images_in_which_nothing_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """12 bits in a 16-bit PNG are black where nobody says the range."""
    write_folder(tmp_path)
    dark = np.random.default_rng(0).integers(0, 200, (20, 20), dtype=np.uint16)
    Image.fromarray(dark).save(tmp_path / "0.png")
    (tmp_path / "1.jpg").write_bytes(encoded(gradient(32, 24), "JPEG"))
    (tmp_path / "t.csv").write_text("image,caption\n0.png,a scan\n1.jpg,b\n")
    found = inspect_pairs(TableSource(str(tmp_path / "t.csv")))
    assert found.one_tone == [f"line 2 of {tmp_path / 't.csv'}"] and not found.broken
    verified = verify_pairs(TableSource(str(tmp_path / "t.csv")))
    assert not verified.faults and [finding.reason for finding in verified.findings] == ["nearly one tone"]
    assert main(["data", "verify", "--data", str(tmp_path / "t.csv")]) == 0
    shown = capsys.readouterr().out
    assert "all 2 pairs can be used" in shown and "nearly one tone" in shown
    assert main(["data", "inspect", "--data", str(tmp_path / "t.csv"), "--output", str(tmp_path / "sheet.html")]) == 0
    shown = capsys.readouterr().out
    assert "images of nearly one tone" in shown and "read as" in shown
    assert "nearly one tone" in (tmp_path / "sheet.html").read_text()


def test_classes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").write_bytes(jpeg(number))
    found = inspect_pairs(pair_sources.build(str(tmp_path)))
    assert found.classes == {"cat": 3, "dog": 2} and found.layout == "one folder for each of 2 classes (cat 3, dog 2)"
    assert main(["data", "inspect", "--data", str(tmp_path), "--output", str(tmp_path / "sheet.png")]) == 0
    assert "one folder for each of 2 classes" in " ".join(capsys.readouterr().out.split())
