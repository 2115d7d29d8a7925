"""Sources: what a user has becomes pairs, and each way it can be wrong is one clear line."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from small import write_folder

from lightning_clip import InputError
from lightning_clip.data import ClassFolders, ShardSource, TableSource, pair_sources
from lightning_clip.data.pack import pack_shards


def jpeg(colour: str = "red", size: tuple[int, int] = (20, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class TestTable:
    def test_folder_with_captions(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        source = pair_sources.build(str(tmp_path))
        assert isinstance(source, TableSource) and len(source) == 6
        assert source[1].captions == ("picture 1", "image number 1") and source[1].key == "1.jpg"
        assert isinstance(source[1].image, bytes)

    def test_where(self, tmp_path: Path) -> None:
        table = write_folder(tmp_path)
        assert len(TableSource(str(table), where={"split": "val"})) == 2
        assert len(TableSource(str(table), where={"split": ["val", "train"]})) == 6

    @pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
    def test_other_tables(self, tmp_path: Path, kind: str) -> None:
        write_folder(tmp_path)
        rows = [{"file": "0.jpg", "text": "eins, zwei"}, {"file": "1.jpg", "text": "drei"}]
        table = tmp_path / f"captions.{kind}"
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        else:
            with table.open("w", newline="", encoding="utf-8") as lines:
                writer = csv.DictWriter(lines, ["file", "text"], delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        source = TableSource(str(table), image_column="file", caption_column="text")
        assert [source[i].captions for i in range(2)] == [("eins, zwei",), ("drei",)]

    def test_images_in_a_tar(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "images.tar", {"images/a.jpg": jpeg("red"), "images/b.jpg": jpeg("blue")})
        rows = [{"image": "b.jpg", "caption": "blue"}, {"image": "images/a.jpg", "caption": "red"}]
        (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
        source = TableSource(str(tmp_path / "captions.jsonl"), images="images.tar")
        assert source[0].image == jpeg("blue") and source[1].image == jpeg("red")
        again = pickle.loads(pickle.dumps(source))
        assert again[0].image == jpeg("blue")

    def test_labels(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        (tmp_path / "labels.csv").write_text("image,label\n0.jpg,dog\n1.jpg,cat\n2.jpg,dog\n")
        source = TableSource(str(tmp_path / "labels.csv"), caption_column=None, label_column="label")
        assert source.class_names == ["cat", "dog"] and [source[i].label for i in range(3)] == [1, 0, 1]

    def test_rows_without_text_are_left_out_and_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "captions.csv").write_text("image,caption\na.jpg,\nb.jpg,yes\n")
        source = TableSource(str(tmp_path / "captions.csv"))
        assert len(source) == 1 and "left out 1 of 2 rows without text in 'caption'" in caplog.text

    def test_errors(self, tmp_path: Path) -> None:
        table = str(write_folder(tmp_path))
        with pytest.raises(InputError, match="caption table '.*captions.json' does not exist.*did you mean 'captions.jsonl'"):
            TableSource(str(tmp_path / "captions.json"))
        with pytest.raises(InputError, match="has no column 'captions': did you mean 'caption'"):
            TableSource(table, caption_column="captions")
        with pytest.raises(InputError, match="no row of .* has {'split': 'dev'}: column 'split' has train, val"):
            TableSource(table, where={"split": "dev"})
        with pytest.raises(InputError, match="image folder or tar '.*nowhere' does not exist"):
            TableSource(table, images="nowhere")
        (tmp_path / "empty.jsonl").touch()
        with pytest.raises(InputError, match="caption table '.*empty.jsonl' is empty: it needs one row per image"):
            TableSource(str(tmp_path / "empty.jsonl"))
        (tmp_path / "bad.jsonl").write_text('{"image": "a.jpg", "caption": "b"}\n{"image": ')
        with pytest.raises(InputError, match="line 2 of '.*bad.jsonl' is no JSON"):
            TableSource(str(tmp_path / "bad.jsonl"))
        (tmp_path / "blank.csv").write_text("image,caption\na.jpg,\n")
        with pytest.raises(InputError, match="column 'caption' of .* is empty in all 1 rows"):
            TableSource(str(tmp_path / "blank.csv"))
        with pytest.raises(InputError, match="must end in one of .jsonl, .csv, .tsv, .parquet"):
            TableSource(str(tmp_path / "0.jpg"))


class TestShards:
    def test_packed_and_read_again(self, tmp_path: Path) -> None:
        source = pair_sources.build(str(write_folder(tmp_path / "folder", count=7)))
        summary = pack_shards(source, str(tmp_path / "train-%06d.tar"), pairs_per_shard=3)
        assert summary.pairs == 7 and len(summary.shards) == 3
        shards = pair_sources.build(str(tmp_path / "train-{000000..000002}.tar"))
        assert isinstance(shards, ShardSource) and len(shards) == 7
        for index in range(7):
            assert shards[index].captions == source[index].captions
            assert shards[index].image == source[index].image
        assert len(pair_sources.build(str(tmp_path / "train-*.tar"))) == 7

    def test_readable_by_webdataset(self, tmp_path: Path) -> None:
        import webdataset

        source = pair_sources.build(str(write_folder(tmp_path / "folder")))
        pack_shards(source, str(tmp_path / "s-%03d.tar"))
        samples = list(webdataset.WebDataset(str(tmp_path / "s-000.tar"), shardshuffle=False))
        assert [sample["txt"].decode() for sample in samples] == [source[i].captions[0] for i in range(6)]
        assert samples[0]["jpg"] == source[0].image

    def test_synthetic_scenes_are_packed_exactly(self, tmp_path: Path) -> None:
        from lightning_clip.data.decoding import decode

        source = pair_sources.build({"name": "synthetic", "size": 3, "image_size": 32})
        pack_shards(source, str(tmp_path / "s-%d.tar"))
        shards = pair_sources.build(str(tmp_path / "s-0.tar"))
        assert (decode(shards[1].image) == source[1].image).all() and shards[1].label == source[1].label

    def test_layouts_of_others(self, tmp_path: Path) -> None:
        record = json.dumps({"caption": ["one", "two"]}).encode()
        members = {
            "a/0.jpg": jpeg(),
            "a/0.txt": b" hello \n",
            "a/1.jpg": jpeg(),
            "a/1.json": record,
            "2.png": jpeg(),
            "2.cls": b"4",
        }
        source = ShardSource(str(write_tar(tmp_path / "x.tar", members)))
        assert [source[i].captions for i in range(3)] == [("hello",), ("one", "two"), ()]
        assert source[2].label == 4 and source[0].key == "a/0"

    def test_errors(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "images.tar", {"0.jpg": jpeg(), "1.jpg": jpeg()})
        with pytest.raises(InputError, match="hold no sample with an image and a text .2 with no caption.:.*data pack"):
            ShardSource(str(tmp_path / "images.tar"))
        with pytest.raises(InputError, match="tar archive '.*lost.tar' does not exist"):
            ShardSource(str(tmp_path / "lost.tar"))
        with pytest.raises(InputError, match="no shard matches"):
            ShardSource(str(tmp_path / "lost-*.tar"))
        (tmp_path / "text.tar").write_text("no tar at all" * 100)
        with pytest.raises(InputError, match="is no uncompressed tar archive"):
            ShardSource(str(tmp_path / "text.tar"))

    def test_packing_errors(self, tmp_path: Path) -> None:
        source = pair_sources.build(str(write_folder(tmp_path)))
        with pytest.raises(InputError, match="shard pattern '.*x.tar' needs one number"):
            pack_shards(source, str(tmp_path / "x.tar"))
        pack_shards(source, str(tmp_path / "s-%d.tar"))
        with pytest.raises(InputError, match="s-0.tar' exists already"):
            pack_shards(source, str(tmp_path / "s-%d.tar"))

    def test_broken_images_are_left_out_and_counted(self, tmp_path: Path) -> None:
        table = write_folder(tmp_path / "folder")
        (tmp_path / "folder" / "2.jpg").write_bytes(b"no picture")
        (tmp_path / "folder" / "4.jpg").unlink()
        summary = pack_shards(TableSource(str(table)), str(tmp_path / "s-%d.tar"), check=True)
        assert summary.pairs == 4 and dict(summary.dropped) == {"not an image": 1, "image file missing": 1}
        assert not list(tmp_path.glob("*.partial"))


class TestClassFolders:
    def test_labels(self, tmp_path: Path) -> None:
        for name in ("dog", "cat"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "1.jpg").write_bytes(jpeg())
        source = pair_sources.build(str(tmp_path))
        assert isinstance(source, ClassFolders) and source.class_names == ["cat", "dog"]
        assert [source[i].label for i in range(2)] == [0, 1] and source[0].captions == ()

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds nothing that is known as pairs .*one folder per class"):
            pair_sources.build(str(tmp_path))
        (tmp_path / "dog").mkdir()
        with pytest.raises(InputError, match="has no folder per class with images in it"):
            pair_sources.build(str(tmp_path))
        with pytest.raises(InputError, match="data .*'.*/lost' does not exist"):
            pair_sources.build(str(tmp_path / "lost"))
