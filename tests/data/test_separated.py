"""Tables as programs write them come back row by row; a stray quote costs its own line and no other."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_clip import InputError
from lightning_clip.data import TableSource
from lightning_clip.data.sources.rows import TableForm, read_tables
from lightning_clip.data.sources.separated import SeparatedValues

TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00\r"), max_size=40)
TABLES = st.lists(TEXTS, min_size=1, max_size=12).map(
    lambda texts: [{"image": f"img_{number}.jpg", "caption": text} for number, text in enumerate(texts)]
)


def written(kind: str, rows: list[dict[str, Any]]) -> tuple[str, bytes]:
    """Name and bytes of a table in one of the usual dialects."""
    if kind.startswith("pandas"):
        import pandas

        separator = {"pandas": ",", "pandas tsv": "\t", "pandas ;": ";"}[kind]
        text = pandas.DataFrame(rows).to_csv(index=False, sep=separator)
        return ("t.tsv" if separator == "\t" else "t.csv"), text.encode()
    if kind == "pyarrow":
        sink = io.BytesIO()
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), sink)
        return "t.csv", sink.getvalue()
    dialects: dict[str, dict[str, Any]] = {
        "excel": {},
        "excel tab": {"dialect": "excel-tab"},
        "unix": {"dialect": "unix"},
        "bom ;": {"delimiter": ";", "lineterminator": "\n"},
        "|": {"delimiter": "|", "quoting": csv.QUOTE_ALL},
    }
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), **dialects[kind])
    writer.writeheader()
    writer.writerows(rows)
    return ("t.tsv" if kind == "excel tab" else "t.csv"), lines.getvalue().encode("utf-8-sig" if "bom" in kind else "utf-8")


@pytest.mark.parametrize("kind", ["excel", "excel tab", "unix", "bom ;", "|", "pandas", "pandas tsv", "pandas ;", "pyarrow"])
@settings(deadline=None, max_examples=60)
@example(rows=[{"image": "img_0.jpg", "caption": 'he said "6"" pipe"\nand left,\tso; far|'}])
@given(rows=TABLES)
def test_what_programs_write_comes_back(kind: str, rows: list[dict[str, Any]]) -> None:
    name, content = written(kind, rows)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / name
        table.write_bytes(content)
        found = list(read_tables([table], TableForm(max_bad_rows=0.0)))
    assert found == rows


def records(tmp_path: Path, lines: list[str], delimiter: str) -> list[Any]:
    table = tmp_path / "t"
    table.write_text("\n".join(lines), encoding="utf-8")
    return list(SeparatedValues(table, delimiter))


def test_a_stray_quote_in_a_tsv(tmp_path: Path) -> None:
    """What pandas and csv read as one caption of 17,982 characters."""
    lines = ["image\tcaption", *(f"{number}.jpg\ta picture {number}" for number in range(1000))]
    lines[101] = '100.jpg\t"Best of 2020'
    (tmp_path / "t.tsv").write_text("\n".join(lines))
    source = TableSource(str(tmp_path / "t.tsv"))
    assert len(source) == 1000
    assert source.captions(100) == ('"Best of 2020',) and source.captions(101) == ("a picture 101",)


@pytest.mark.parametrize("end", ["", '900.jpg,"and closed again', '900.jpg,6 feet 11"', '900.jpg,a "quoted" word'])
def test_a_stray_quote_in_a_csv(tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["image,caption", *(f"{number}.jpg,a picture {number}" for number in range(1000))]
    lines[101] = '100.jpg,"Best of 2020'
    if end:
        lines[901] = end
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = TableSource(str(tmp_path / "t.csv"))
    lost = 2 if end.count('"') == 1 and ',"' in end else 1
    assert len(source) == 1000 - lost and f"omitted {lost} bad lines, the first is line 102" in caplog.text
    assert "opens a quote that is not closed before the next record" in caplog.text
    with pytest.raises(InputError, match=r"line 102 of .* opens a quote that is not closed .*max_bad_rows 0 allows"):
        TableSource(str(tmp_path / "t.csv"), max_bad_rows=0.0)


def test_text_with_lines_that_are_no_records(tmp_path: Path) -> None:
    found = records(
        tmp_path, ["image,caption", '1.jpg,"first, with comma', 'second, line with ""quotes""', 'last"', "2.jpg,b"], ","
    )
    assert [record.line for record in found] == [1, 2, 5]
    assert found[1].fields == ["1.jpg", 'first, with comma\nsecond, line with "quotes"\nlast']


def test_a_table_that_begins_with_the_caption(tmp_path: Path) -> None:
    found = records(tmp_path, ["caption,image", "a,1.jpg", '"Best of,2.jpg', "c,3.jpg", "d,4.jpg"], ",")
    assert [record.fields for record in found[3:]] == [["c", "3.jpg"], ["d", "4.jpg"]] and found[2].fault


@pytest.mark.parametrize(("line", "fields"), [('1.jpg,"Best" of 2020', '"Best" of 2020'), ('1.jpg,6" pipe', '6" pipe')])
def test_quotes_that_quote_nothing(tmp_path: Path, line: str, fields: str) -> None:
    assert records(tmp_path, ["image,caption", line], ",")[1].fields == ["1.jpg", fields]


def test_line_ends(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "t.csv").write_bytes(end.join(["image,caption", "1.jpg,a", "", "2.jpg,b", ""]).encode())
        assert [TableSource(str(tmp_path / "t.csv")).captions(i) for i in range(2)] == [("a",), ("b",)]


@pytest.mark.parametrize("delimiter", [";;", "", '"', "\n", 3])
def test_delimiters_that_are_none(tmp_path: Path, delimiter: Any) -> None:
    (tmp_path / "t.csv").write_text("image;;caption\n1.jpg;;a\n")
    with pytest.raises(InputError, match="delimiter .* must be one letter, such as ';'"):
        SeparatedValues(tmp_path / "t.csv", delimiter)
