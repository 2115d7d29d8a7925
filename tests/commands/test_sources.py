"""Sources and models as a shell names them: values that are YAML, names that hold "="."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from small import save_checkpoint, write_folder

from lightning_clip import InputError
from lightning_clip.commands.evaluate import opened_model
from lightning_clip.commands.sources import add_source_arguments, open_source


def opened(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return open_source(parser.parse_args(arguments))


class TestValues:
    @pytest.mark.parametrize("delimiter", [r"\t", '"\\t"', "\t", "'\t'"])
    def test_a_tab(self, delimiter: str, tmp_path: Path) -> None:
        write_folder(tmp_path, count=2)
        (tmp_path / "t.csv").write_text("image\tcaption\n0.jpg\ta, b\n1.jpg\tc\n")
        source = opened("--data", str(tmp_path / "t.csv"), "--set", f"delimiter={delimiter}")
        assert [source.captions(index) for index in range(2)] == [("a, b",), ("c",)]

    def test_numbers_flags_and_lists(self, tmp_path: Path) -> None:
        write_folder(tmp_path, count=2)
        (tmp_path / "t.jsonl").write_text('{"image": "0.jpg", "caption": "a", "fold": 1}\nno row\n')
        table = ("--data", str(tmp_path / "t.jsonl"))
        assert len(opened(*table, "--set", "max_bad_rows=0.5", "--where", "fold=1")) == 1
        with pytest.raises(InputError, match="no row of .* has {'fold': '2'}: column 'fold' has 1"):
            opened(*table, "--set", "max_bad_rows=0.5", "--where", "fold=2")
        assert len(opened("--data", "synthetic", "--set", "size=8", "--set", "held_out=true")) == 8
        (tmp_path / "bare.csv").write_text("0.jpg,a\n")
        assert len(opened("--data", str(tmp_path / "bare.csv"), "--set", "header=[image, caption]")) == 1

    def test_two_letters_are_no_delimiter(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("image;;caption\n")
        with pytest.raises(InputError, match="delimiter ';;' must be one letter"):
            opened("--data", str(tmp_path / "t.csv"), "--set", "delimiter=;;")


class TestModels:
    def test_a_name_before_a_file_whose_name_has_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        path = "checkpoints/epoch=0-step=3.ckpt"
        save_checkpoint(tmp_path / path)
        assert opened_model(path).name == "epoch=0-step=3"
        assert opened_model(f"mine={path}").name == "mine"
        monkeypatch.chdir(tmp_path / "checkpoints")
        assert opened_model("epoch=0-step=3.ckpt").name == "epoch=0-step=3"

    @pytest.mark.parametrize("text", ["runs/epoch=0-step=3.ckpt", "mine=runs/epoch=0-step=3.ckpt"])
    def test_a_missing_file_is_named_whole(self, text: str) -> None:
        with pytest.raises(InputError, match="'runs/epoch=0-step=3.ckpt' does not exist"):
            opened_model(text)
