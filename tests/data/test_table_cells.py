"""Cells that are no plain text, rows of one image, names that lead elsewhere."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import write_folder

from lightning_clip import InputError
from lightning_clip.data import TableSource
from lightning_clip.data.decoding import decode
from lightning_clip.data.images import ImageStore
from lightning_clip.data.sources.columns import cell, texts


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("nan"), ()),
        (None, ()),
        ("", ()),
        ("a dog", ("a dog",)),
        (3, ("3",)),
        ("['a dog', 'b']", ("a dog", "b")),
        ('["a dog", "b"]', ("a dog", "b")),
        (str(["it's", 'a "b"']), ("it's", 'a "b"')),
        ("['a dog' 'b']", ("a dog", "b")),  # numpy's way
        (str(np.array(["a dog", "b"])), ("a dog", "b")),
        ('["a dog", null]', ("a dog",)),
        ("[]", ("[]",)),
        ("[sic] a dog", ("[sic] a dog",)),
        ("[1, 2]", ("[1, 2]",)),
        ("[a dog]", ("[a dog]",)),
        (["a", None, " ", "b"], ("a", "b")),
    ],
)
def test_texts_of_a_cell(value: Any, found: tuple[str, ...]) -> None:
    assert texts(value) == found


@pytest.mark.parametrize("value", [{"raw": "a dog", "tokens": ["a", "dog"]}, [{"raw": "a dog", "tokens": ["a", "dog"]}]])
def test_mappings_are_no_text(tmp_path: Path, value: Any) -> None:
    write_folder(tmp_path)
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "0.jpg", "sentences": value}))
    with pytest.raises(InputError, match=r"column 'sentences' holds mappings.*\(sentences.raw, sentences.tokens\)"):
        TableSource(str(tmp_path / "t.jsonl"), caption_column="sentences")
    assert TableSource(str(tmp_path / "t.jsonl"), caption_column="sentences.raw").captions(0) == ("a dog",)


def test_paths_lead_through_lists() -> None:
    row = {"a": [{"b": [{"c": 1}, {"c": 2}]}, {"b": []}], "s": '[{"raw": "x"}]'}
    assert cell(row, "s.raw") == ["x"] and cell(row, "a.d") is None and cell({"a": 3}, "a.b") is None


def test_nan_in_jsonl_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    write_folder(tmp_path)
    rows = [{"image": "0.jpg", "caption": "a"}, {"image": "1.jpg", "caption": float("nan")}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "NaN" in (tmp_path / "t.jsonl").read_text() and len(TableSource(str(tmp_path / "t.jsonl"))) == 1
    table = pyarrow.table({"image": ["0.jpg", "1.jpg"], "caption": pyarrow.array([float("nan"), 4.0])})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    source = TableSource(str(tmp_path / "t.parquet"))
    assert len(source) == 1 and source.captions(0) == ("4.0",)


class TestRowsOfOneImage:
    def table(self, folder: Path, *lines: str) -> str:
        write_folder(folder)
        (folder / "t.csv").write_text("\n".join(["image,caption,label", *lines]))
        return str(folder / "t.csv")

    def test_are_one_pair(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        source = TableSource(self.table(tmp_path, "0.jpg,a,", "1.jpg,b,", "0.jpg,c,", "0.jpg,,", "1.jpg,d,", "2.jpg,e,"))
        assert [source.captions(i) for i in range(3)] == [("a", "c"), ("b", "d"), ("e",)]
        assert [source[i].captions for i in range(3)] == [("a", "c"), ("b", "d"), ("e",)]
        assert [source[i].key for i in range(3)] == ["0.jpg", "1.jpg", "2.jpg"] and len(source) == 3
        assert "5 rows are captions of 3 images" in caplog.text

    def test_other_labels_are_other_samples(self, tmp_path: Path) -> None:
        source = TableSource(self.table(tmp_path, "0.jpg,a,cat", "0.jpg,b,dog", "0.jpg,c,cat"), label_column="label")
        assert [(source[i].captions, source[i].label) for i in range(2)] == [(("a", "c"), 0), (("b",), 1)]

    def test_weights_go_with_their_captions(self, tmp_path: Path) -> None:
        table = self.table(tmp_path, "0.jpg,a,x", "0.jpg,b,y")
        pair = TableSource(table, caption_column={"caption": 3.0, "label": 1.0})[0]
        assert pair.captions == ("a", "x", "b", "y") and pair.weights == (3.0, 1.0, 3.0, 1.0)

    def test_the_same_bytes_are_the_same_image(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        write_folder(tmp_path)
        content = (tmp_path / "0.jpg").read_bytes()
        table = pyarrow.Table.from_pylist([{"image": content, "caption": "a"}, {"image": content, "caption": "b"}])
        pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
        source = TableSource(str(tmp_path / "t.parquet"))
        assert len(source) == 1 and source.captions(0) == ("a", "b") and source[0].image == content


class TestPlacesOfImages:
    @pytest.mark.parametrize("name", ["../secret.jpg", "/proc/self/environ", "a/../../secret.jpg", "/dev/zero"])
    def test_nothing_outside_is_read(self, tmp_path: Path, name: str) -> None:
        inside = tmp_path / "in"
        inside.mkdir()
        write_folder(inside)
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        (inside / "t.csv").write_text(f"image,caption\n{name},a\n")
        with pytest.raises(InputError, match=r"names '.*', which is outside of its images folder '.*in': give images="):
            TableSource(str(inside / "t.csv"))
        (inside / "t.csv").write_text("image,caption\n0.jpg,a\n1.jpg,b\n2.jpg,c\n" + f"{name},a\n")
        source = TableSource(str(inside / "t.csv"))
        with pytest.raises(FileNotFoundError, match="image outside of the images folder"):
            _ = source[3]

    def test_a_folder_that_holds_them(self, tmp_path: Path) -> None:
        inside = tmp_path / "in"
        inside.mkdir()
        write_folder(inside)
        (tmp_path / "t.csv").write_text(f"image,caption\n{inside / '0.jpg'},a\n")
        assert decode(TableSource(str(tmp_path / "t.csv"))[0].image).shape[0] == 3
        (inside / "t.csv").write_text("image,caption\n../in/0.jpg,a\n")
        assert TableSource(str(inside / "t.csv"))[0].image == (inside / "0.jpg").read_bytes()

    def test_links_inside_are_followed(self, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        write_folder(tmp_path / "far")
        (tmp_path / "near").mkdir()
        (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
        assert ImageStore(tmp_path / "near").read("link/0.jpg") == (tmp_path / "far" / "0.jpg").read_bytes()

    def test_pipes_and_giants(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "giant.jpg").write_bytes(b"")
        os.truncate(tmp_path / "giant.jpg", 3 << 30)
        store = ImageStore(tmp_path)
        with pytest.raises(FileNotFoundError, match="image is no regular file"):
            store.read("pipe.jpg")
        with pytest.raises(FileNotFoundError, match="image file too large"):
            store.read("giant.jpg")
        with pytest.raises(FileNotFoundError, match="image file missing"):
            store.read("nowhere.jpg")

    def test_a_folder_near_by(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        (tmp_path / "train2017").mkdir()
        write_folder(tmp_path / "train2017")
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "t.csv").write_text("image,caption\n0.jpg,a\n1.jpg,b\n")
        source = TableSource(str(tmp_path / "annotations" / "t.csv"))
        assert source[0].image == (tmp_path / "train2017" / "0.jpg").read_bytes()
        assert "its images are taken from" in caplog.text and "train2017" in source.layout


class TestColumnsByTheirUsualNames:
    @pytest.mark.parametrize("names", ["filepath\ttitle", "file_name\ttext", "Image\tCaption", "img\tdescription"])
    def test_are_found(self, tmp_path: Path, names: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        write_folder(tmp_path)
        (tmp_path / "t.csv").write_text(f"{names}\n0.jpg\ta, b\n1.jpg\tc\n")  # tabs in a .csv, as open_clip has it
        source = TableSource(str(tmp_path / "t.csv"))
        assert [source.captions(i) for i in range(2)] == [("a, b",), ("c",)] and isinstance(source[0].image, bytes)
        image, caption = names.split("\t")
        assert f"column '{image}' is taken as the image" in caplog.text and f"column '{caption}' is taken" in caplog.text
        assert "delimited by '\\t'" in caplog.text

    def test_what_would_read_it_is_said(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        (tmp_path / "t.csv").write_text("image,label\n0.jpg,cat\n")
        with pytest.raises(InputError, match="no column 'caption'.* give caption_column=null and label_column=label"):
            TableSource(str(tmp_path / "t.csv"))
        (tmp_path / "t.tsv").write_text("a picture\t0.jpg\nanother\t1.jpg\n")
        with pytest.raises(InputError, match=r"Its first line is a row already: name the columns with header="):
            TableSource(str(tmp_path / "t.tsv"))
        source = TableSource(str(tmp_path / "t.tsv"), header=["caption", "image"])
        assert [(source[i].captions, source[i].key) for i in range(2)] == [(("a picture",), "0.jpg"), (("another",), "1.jpg")]
        (tmp_path / "semi.tsv").write_text("image;caption\n0.jpg;a\n")
        with pytest.raises(InputError, match="not delimited as expected: give delimiter=';'"):
            TableSource(str(tmp_path / "semi.tsv"))
        (tmp_path / "t.jsonl").write_text("{}")
        with pytest.raises(InputError, match=r"header \['a'\] is for csv and tsv files, not .jsonl: omit it"):
            TableSource(str(tmp_path / "t.jsonl"), header=["a"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("wanted", [1, "1", 1.0, [1, 7]])
def test_where_means_the_same_in_every_table(tmp_path: Path, kind: str, wanted: Any) -> None:
    import pandas

    write_folder(tmp_path)
    frame = pandas.DataFrame({"image": ["0.jpg", "1.jpg"], "caption": ["a", "b"], "fold": [1, 2], "ok": [True, False]})
    table = tmp_path / f"t.{kind}"
    {
        "csv": lambda: frame.to_csv(table, index=False),
        "jsonl": lambda: frame.to_json(table, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(table),
    }[kind]()
    assert TableSource(str(table), where={"fold": wanted}).captions(0) == ("a",)
    assert len(TableSource(str(table), where={"ok": True})) == 1


def test_names_that_macos_wrote(tmp_path: Path) -> None:
    """Letters and their accents apart in the file's name, together in the table, and the other way round; in archives too."""
    import shutil
    import unicodedata

    together, apart = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))
    for stored, named in ((together, apart), (apart, together)):
        folder = tmp_path / str(len(stored)) / "in"
        folder.mkdir(parents=True)
        (folder / stored).write_bytes(b"content")
        shutil.make_archive(str(folder.parent / "x"), "zip", folder)
        assert ImageStore(folder).read(named) == ImageStore(folder.parent / "x.zip").read(named) == b"content"
    with pytest.raises(FileNotFoundError, match="image file missing"):
        ImageStore(tmp_path).read("nö.jpg")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(tmp_path: Path, kind: str, encoding: str) -> None:
    write_folder(tmp_path)
    rows = [{"image": "0.jpg", "caption": "ein größeres Bild"}, {"image": "1.jpg", "caption": "图片, 二"}]
    text = {
        "csv": 'image,caption\r\n0.jpg,ein größeres Bild\r\n1.jpg,"图片, 二"\r\n',
        "tsv": "image\tcaption\n0.jpg\tein größeres Bild\n1.jpg\t图片, 二\n",
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "json": json.dumps(rows, ensure_ascii=False),
    }[kind]
    (tmp_path / f"t.{kind}").write_bytes(text.encode(encoding))
    source = TableSource(str(tmp_path / f"t.{kind}"))
    assert [source.captions(i) for i in range(2)] == [("ein größeres Bild",), ("图片, 二",)] and source[0].key == "0.jpg"
