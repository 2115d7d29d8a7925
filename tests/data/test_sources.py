"""Sources: what a user has becomes pairs, and each way it can be wrong is one clear line."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import write_folder

from lightning_clip import InputError
from lightning_clip.data import ClassFolders, ShardSource, TableSource, pair_sources
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.sources import ChineseClipSource, HuggingFaceSource
from lightning_clip.data.sources.columns import image_of
from lightning_clip.data.sources.row_store import Rows


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
        assert len(source) == 1 and "omitted 1 of 2 rows without text in 'caption'" in caplog.text

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


class TestRows:
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_bad_lines_are_counted(self, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        """open_clip dies of the first one."""
        table = tmp_path / f"t.{kind}"
        good = [{"image": f"{number}.jpg", "caption": f"text, {number}"} for number in range(200)]
        if kind == "jsonl":
            lines = [json.dumps(row) for row in good]
            lines[7:7] = ["{broken", "[1, 2]"]
        else:
            lines = ["image,caption", *(f'{row["image"]},"{row["caption"]}"' for row in good)]
            lines[7:7] = ["only one field", "a,b,c"]
        table.write_text("\n".join(lines))
        source = TableSource(str(table), max_bad_rows=0.02)
        assert len(source) == 200 and source.captions(150) == ("text, 150",)
        assert re.search(r"omitted 2 bad lines, the first is line 8: it (is no JSON|has 1 fields, the header 2)", caplog.text)
        with pytest.raises(InputError, match=r"line 8 of .* and 2 of 202 lines are bad, more than max_bad_rows 0.001 allows"):
            TableSource(str(table), max_bad_rows=0.001)

    def test_other_encodings_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_bytes("image,caption\na.jpg,Straße\n".encode("latin-1"))
        with pytest.raises(InputError, match="line 2 of .* is not UTF-8 text: save the table as UTF-8"):
            TableSource(str(tmp_path / "t.csv"))

    def test_odd_csv(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_bytes('\ufeffimage;caption\r\na.jpg;"two\nlines; quoted"\r\n\r\n'.encode())
        assert TableSource(str(tmp_path / "t.csv"), delimiter=";").captions(0) == ("two\nlines; quoted",)

    def test_rows_are_kept_flat(self) -> None:
        rows = Rows([{"n": number, "list": [number, None], "bytes": b"x"} for number in range(1000)])
        assert rows[999] == rows[-1] == {"n": 999, "list": [999, None], "bytes": b"x"} and len(rows[10:20]) == 10
        again = pickle.loads(pickle.dumps(rows))
        assert list(again) == list(rows) and sum(isinstance(value, np.ndarray) for value in vars(rows).values()) == 3
        with pytest.raises(IndexError):
            rows[1000]


class TestCells:
    def write(self, folder: Path, **row: Any) -> TableSource:
        (folder / "t.jsonl").write_text(json.dumps(row))
        return folder / "t.jsonl"  # type: ignore[return-value]

    def test_weighted_columns(self, tmp_path: Path) -> None:
        table = str(self.write(tmp_path, image="a.jpg", title="t", alt=["a", "b"], none=None))
        (tmp_path / "a.jpg").write_bytes(jpeg())
        pair = TableSource(table, caption_column={"title": 3, "alt": 1})[0]
        assert pair.captions == ("t", "a", "b") and pair.weights == (3, 0.5, 0.5)
        assert TableSource(table, caption_column=["alt", "title"])[0].captions == ("a", "b", "t")
        assert TableSource(table, caption_column=["alt", "title"])[0].weights is None
        with pytest.raises(InputError, match="gives 'alt' the weight 0: weights must be above 0"):
            TableSource(table, caption_column={"alt": 0})

    def test_json_fields(self, tmp_path: Path) -> None:
        table = str(self.write(tmp_path, image="a.jpg", meta=json.dumps({"text": {"en": "hello"}}), plain={"x": "y"}))
        assert TableSource(table, caption_column="meta.text.en").captions(0) == ("hello",)
        assert TableSource(table, caption_column="plain.x", where={"plain.x": "y"}).captions(0) == ("y",)
        with pytest.raises(InputError, match="has no column 'meta.text.de'"):
            TableSource(table, caption_column="meta.text.de")

    @pytest.mark.parametrize("form", ["base64", "urlsafe", "data"])
    def test_base64(self, tmp_path: Path, form: str) -> None:
        coded = (base64.urlsafe_b64encode if form == "urlsafe" else base64.b64encode)(jpeg()).decode()
        table = str(self.write(tmp_path, image=f"data:image/jpeg;base64,{coded}" if form == "data" else coded, caption="x"))
        assert TableSource(table)[0].image == jpeg()

    def test_bytes_in_parquet(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = [{"image": {"bytes": jpeg(), "path": None}, "caption": "x", "raw": jpeg("blue")}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
        table = str(tmp_path / "t.parquet")
        assert TableSource(table)[0].image == jpeg() and TableSource(table, image_column="raw")[0].image == jpeg("blue")

    def test_nothing_there(self) -> None:
        with pytest.raises(ValueError, match="no image in the row"):
            image_of(None)
        with pytest.raises(ValueError, match="image is no base64"):
            image_of("data:image/png;base64,#####")


class TestChineseClip:
    def write(self, folder: Path) -> None:
        images = {"10": jpeg("red"), "11": jpeg("blue"), "12": jpeg()}
        lines = [f"{name}\t{base64.urlsafe_b64encode(image).decode()}\n" for name, image in images.items()]
        (folder / "valid_imgs.tsv").write_text("".join(lines))
        texts = [
            {"text_id": 1, "text": "蓝色", "image_ids": [11]},
            {"text_id": 2, "text": "红色", "image_ids": [10, 99]},
            {"text_id": 3, "text": "方块", "image_ids": [10, 11]},
            {"text_id": 4, "text": "红色", "image_ids": [10]},
        ]
        (folder / "valid_texts.jsonl").write_text("\n".join(json.dumps(text, ensure_ascii=False) for text in texts))

    def test_pairs(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.write(tmp_path)
        for name in (tmp_path, tmp_path / "valid_imgs.tsv"):
            source = pair_sources.build(str(name))
            assert isinstance(source, ChineseClipSource) and len(source) == 2
            assert source[0].image == jpeg("red") and source[0].captions == ("红色", "方块") and source[0].key == "10"
            assert pickle.loads(pickle.dumps(source))[1].captions == source.captions(1) == ("蓝色", "方块")
        assert "omitted 1 images without text and the texts of 1 absent images" in caplog.text

    def test_errors(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with pytest.raises(InputError, match="has no split 'val'; did you mean 'valid'"):
            ChineseClipSource(str(tmp_path), "val")
        (tmp_path / "train_imgs.tsv").write_text("1\tx\n")
        with pytest.raises(InputError, match="has several splits: give one as split; Known: train, valid"):
            ChineseClipSource(str(tmp_path))
        with pytest.raises(InputError, match="Chinese-CLIP texts .*train_texts.jsonl' does not exist"):
            ChineseClipSource(str(tmp_path), "train")
        (tmp_path / "train_texts.jsonl").write_text('{"text": "x"}')
        with pytest.raises(InputError, match='line 1 of .* has no "text" and "image_ids"'):
            ChineseClipSource(str(tmp_path), "train")
        (tmp_path / "train_texts.jsonl").write_text('{"text": "x", "image_ids": [5]}')
        with pytest.raises(InputError, match="no image of .* has a text in train_texts.jsonl"):
            ChineseClipSource(str(tmp_path), "train")
        (tmp_path / "train_texts.jsonl").write_text('{"text": "x", "image_ids": [1]}')
        with pytest.raises(ValueError, match="image is no base64"):
            ChineseClipSource(str(tmp_path), "train")[0]


class TestHuggingFace:
    def write(self, folder: Path) -> str:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            image=datasets.Image(), text=datasets.Value("string"), alt=[datasets.Value("string")],
            label=datasets.ClassLabel(names=["cat", "dog"]),
        )  # fmt: skip
        rows = [
            {"image": {"bytes": jpeg(colour), "path": None}, "text": colour, "alt": ["x", "y"], "label": number}
            for number, colour in enumerate(("red", "blue"))
        ]
        datasets.DatasetDict(train=datasets.Dataset.from_list(rows, features=features)).save_to_disk(str(folder))
        return str(folder)

    def test_saved_folder(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "d")
        source = pair_sources.build(folder)
        assert isinstance(source, HuggingFaceSource) and len(source) == 2
        assert source[1].image == jpeg("blue") and source[1].captions == source.captions(1) == ("blue",)
        labelled = HuggingFaceSource(folder, caption_column={"alt": 2, "text": 1}, label_column="label")
        assert labelled[1].label == 1 and labelled[1].metadata == {"class_name": "dog"}
        assert labelled[0].captions == ("x", "y", "red") and labelled[0].weights == (1, 1, 1)
        assert labelled.captions(0) == ("x", "y", "red")

    def test_errors(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "d")
        with pytest.raises(InputError, match="has no split 'test': Known: train"):
            HuggingFaceSource(folder, "test")
        with pytest.raises(InputError, match="has no column 'txt': did you mean 'text'"):
            HuggingFaceSource(folder, caption_column="txt")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no Hugging Face dataset .*empty' with split 'train'"):
            HuggingFaceSource(str(tmp_path / "empty"))


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


class TestClassFolders:
    def test_labels(self, tmp_path: Path) -> None:
        for name in ("dog", "cat"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "1.jpg").write_bytes(jpeg())
        source = pair_sources.build(str(tmp_path))
        assert isinstance(source, ClassFolders) and source.class_names == ["cat", "dog"]
        assert [source[i].label for i in range(2)] == [0, 1] and source[0].captions == ()
        assert source[0].metadata == {"class_name": "cat"}

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds nothing that is known as pairs .*one folder per class"):
            pair_sources.build(str(tmp_path))
        (tmp_path / "dog").mkdir()
        with pytest.raises(InputError, match="has no folder per class with images in it"):
            ClassFolders(str(tmp_path))
        with pytest.raises(InputError, match="holds nothing that is known as pairs .*one folder per class"):
            pair_sources.build(str(tmp_path))
        with pytest.raises(InputError, match="data .*'.*/lost' does not exist"):
            pair_sources.build(str(tmp_path / "lost"))
