"""YAML that grows: counted before anything is built of it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from lightning_clip import InputError
from lightning_clip.core.yaml_bounds import check_references
from lightning_clip.core.yaml_files import plain_yaml, read_mapping, unresolved

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFERENCES = "a: [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: {['${' + old + '}'] * 10}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CASES = {
    "aliases": (LAUGHS, "comes to 1.23e+09 parts by its aliases: at most 200,000 are read"),
    "merged aliases": (LAUGHS.replace("i: &i", "<<: *a\ni: &i"), "parts by its aliases"),
    "an alias of itself": ("a: &a [*a]", "has an alias 'a' of nothing, or of what it stands in"),
    "references": (REFERENCES, "comes to more than 200,000 parts by its references ${...}"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, "is nested more than 60 deep: no settings are"),
    "no YAML": ("a: [1", "cannot be read: while parsing a flow sequence"),
    "giant number": ("a: " + "9" * 6000, "cannot be read: Exceeds the limit"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_at_once(tmp_path: Path, name: str) -> None:
    text, message = CASES[name]
    (tmp_path / "suite.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_mapping(tmp_path / "suite.yaml", "suite")
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 800 and "suite.yaml" in str(caught.value)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_bytes(b"sets: \xff\xfe\n")
    with pytest.raises(InputError, match="is no text in UTF-8 .invalid start byte at byte 6.: save it as UTF-8"):
        read_mapping(tmp_path / "suite.yaml", "suite")


def test_a_date_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("a: 2024-99-99")
    with pytest.raises(InputError, match="words.yaml' cannot be read: month must be in 1..12"):
        plain_yaml(tmp_path / "words.yaml", "prompts")


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "suite.yaml").open("wb") as stream:
        stream.truncate(9 << 20)
    with pytest.raises(InputError, match="has 9,437,184 bytes: a file of settings may have 8,388,608"):
        plain_yaml(tmp_path / "suite.yaml", "suite")


def test_ordinary_aliases_and_references_are_read(tmp_path: Path) -> None:
    text = "base: &b {size: 3}\nfirst: *b\nsecond: {<<: *b, size: 4}\nthird: ${first.size}\n"
    (tmp_path / "suite.yaml").write_text(text)
    assert read_mapping(tmp_path / "suite.yaml", "suite")["third"] == 3
    assert read_mapping(tmp_path / "suite.yaml", "suite", ["first.size=7"])["third"] == 7
    assert unresolved(tmp_path / "suite.yaml", "suite")["third"] == "${first.size}"


def test_a_circle_of_references_is_left_to_the_resolver(tmp_path: Path) -> None:
    check_references({"a": "${b}", "b": "${a}"}, "recipe")
    (tmp_path / "suite.yaml").write_text("a: ${b}\nb: ${a}\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_mapping(tmp_path / "suite.yaml", "suite")
