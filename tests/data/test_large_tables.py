"""Large tables: rows stay in their file, what was found out is kept, columns that nobody asked for are not read."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_clip import InputError
from lightning_clip.data.sources import json_lines, row_groups, table_cache
from lightning_clip.data.sources.json_lines import JsonLines, read_json_lines
from lightning_clip.data.sources.rows import TableForm, read_tables
from lightning_clip.data.sources.tables import TableSource


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every table counts as large."""
    monkeypatch.setattr(table_cache, "LARGE", 0)
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))


def written(path: Path, lines: list[str | bytes], end: bytes = b"\n", mark: bytes = b"") -> Path:
    path.write_bytes(mark + end.join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


LINES: list[str | bytes] = [
    '{"image": "1.jpg", "caption": "ein Hund auf dem Gras", "class": "dog"}',
    "",
    '{"image": "2.jpg", "caption": "猫", "class": "cat"}',
    "no json",
    '{"image": "1.jpg", "caption": "a dog", "class": "dog"}',
    b'{"image": "\xff.jpg", "caption": "latin"}',
    "[1, 2]",
    '  {"image": "3.jpg", "caption": ""}  ',
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_same_rows_as_read_line_by_line(end: bytes, mark: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", LINES, end, mark)
    rows = read_tables([path], TableForm(max_bad_rows=0.5))
    assert isinstance(rows, JsonLines)
    expected = [(line, row) for line, row in read_json_lines(path) if not isinstance(row, str)]
    assert [(int(line), row) for line, row in zip(rows.lines, rows, strict=True)] == expected
    assert len(rows) == 4 and rows.place(1) == f"line 3 of {path}" and rows[-1]["image"] == "3.jpg"
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)


def test_a_second_opening_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    path = written(tmp_path / "t.jsonl", LINES)
    options: dict[str, Any] = {"images": ".", "max_bad_rows": 0.5, "label_column": "class", "where": {"class": ["dog", "cat"]}}
    first = TableSource(str(path), **options)
    said = [record.message for record in caplog.records]
    caplog.clear()
    monkeypatch.setattr(json_lines, "_places", None)
    monkeypatch.setattr(row_groups, "_grouped", None)
    second = TableSource(str(path), **options)
    assert said == [record.message for record in caplog.records] and "omitted 3 bad lines, the first is line 4" in said[0]
    assert list(second.class_names) == list(first.class_names) == ["cat", "dog"]
    for source in (first, second):
        assert [source.captions(index) for index in range(len(source))] == [("ein Hund auf dem Gras", "a dog"), ("猫",)]
        assert [source.label(index) for index in range(2)] == [1, 0] and source.place(1) == f"line 3 of {path}"


def test_another_question_or_file_is_looked_at_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", LINES)
    assert len(TableSource(str(path), ".", max_bad_rows=0.5)) == 2
    assert len(TableSource(str(path), ".", max_bad_rows=0.5, where={"class": "cat"})) == 1
    status = path.stat()
    written(path, [line.replace("猫", "犬") if isinstance(line, str) else line for line in LINES])  # as many bytes
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert TableSource(str(path), ".", max_bad_rows=0.5).captions(1) == ("犬",)
    with pytest.raises(InputError, match="line 4 of .* is no JSON .*3 of 7 lines are bad"):
        TableSource(str(path), ".")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_or_foreign_file_of_the_cache(damage: bytes | None, tmp_path: Path) -> None:
    """It is made again; nothing in it is executed."""
    path = written(tmp_path / "t.jsonl", LINES)
    read_tables([path], TableForm(max_bad_rows=0.5))
    (kept,) = (tmp_path / "cache/tables").iterdir()
    if damage is None:
        np.savez(kept, stamp=np.array([print], dtype=object))
    else:
        kept.write_bytes(damage)
    assert len(read_tables([path], TableForm(max_bad_rows=0.5))) == 4


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "file"))
    path = written(tmp_path / "t.jsonl", LINES)
    assert len(read_tables([path], TableForm(max_bad_rows=0.5))) == 4


def test_small_tables_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_cache, "LARGE", 1 << 20)
    read_tables([written(tmp_path / "t.jsonl", LINES)], TableForm(max_bad_rows=0.5))
    assert not (tmp_path / "cache").exists()


def test_several_files(tmp_path: Path) -> None:
    parts = [written(tmp_path / f"{number}.jsonl", LINES[:number]) for number in (1, 3, 5)]
    for _ in range(2):
        rows = read_tables(parts, TableForm(max_bad_rows=0.5))
        assert [row["image"] for row in rows] == ["1.jpg", "1.jpg", "2.jpg", "1.jpg", "2.jpg", "1.jpg"]
        assert rows.place(2) == f"line 3 of {parts[1]}" and rows.place(5) == f"line 5 of {parts[2]}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_are_read_whole(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(str(line) for line in LINES[:3]), encoding=encoding)
    rows = read_tables([path], TableForm())
    assert not isinstance(rows, JsonLines) and [row["image"] for row in rows] == ["1.jpg", "2.jpg"]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none(), max_size=4), min_size=1),
    escaped=st.booleans(),
)
def test_any_rows_come_back(rows: list[dict[str, Any]], escaped: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    path = tmp_path_factory.mktemp("any") / "t.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = list(read_tables([path], TableForm(max_bad_rows=1.0)))
    except InputError:
        found = []
    assert found == [row for row in rows if escaped or not any(_lone(part) for pair in row.items() for part in pair)]


def _lone(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


class TestParquet:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        arrow = pytest.importorskip("pyarrow")
        columns = {
            "file_name": ["1.jpg", "2.jpg"],
            "Text": [["a dog"], ["a cat"]],
            "features": [[0.5] * 64] * 2,
            "split": ["train", "test"],
            "meta": [{"note": "one"}, {"note": "two"}],
        }
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    def test_only_what_is_asked_for(self, table: Path) -> None:
        source = TableSource(str(table), ".", where={"split": "test"})
        assert source.rows[0].keys() == {"file_name", "Text", "split"} and source.captions(0) == ("a cat",)
        named = TableSource(str(table), ".", image_column="file_name", caption_column="meta.note")
        assert named.rows[0].keys() == {"file_name", "meta"} and named.captions(1) == ("two",)

    def test_a_column_that_is_missing_is_told_with_all_there_are(self, table: Path) -> None:
        with pytest.raises(InputError, match="has no column 'fetures': did you mean 'features'"):
            TableSource(str(table), ".", caption_column="fetures")
