"""Splits by a value: no patient in two parts, the same part for good, shares near what was asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small import small_module

from lightning_clip import ClipDataModule, InputError
from lightning_clip.cli import main
from lightning_clip.data import TableSource, pair_sources
from lightning_clip.data.sources import table_cache
from lightning_clip.data.sources.split_parts import PARTS, Split, parts_of

HALVES = {"by": "patient", "test": 0.3, "val": 0.3}


def cohort(folder: Path, patients: int = 12, images: int = 3, kind: str = "jsonl", **more: Any) -> Path:
    """A table of so many pictures of each patient, one of them without a split of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients * images):
        Image.new("RGB", (24, 20), (number * 5 % 256, 90, 40)).save(folder / f"{number}.png")
        row = {
            "image": f"{number}.png",
            "caption": f"note {number}",
            "patient": number % patients,
            "year": 2000 + number // patients % 2,
        }
        rows.append({**row, **{key: value(number) for key, value in more.items()}})
    path = folder / f"notes.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    return path


def keys(table: Path, part: str | None, **arguments: Any) -> set[str]:
    source = TableSource(str(table), split={**HALVES, "part": part}, **arguments)
    return {source[index].key for index in range(len(source))}


def patients(names: set[str], count: int = 12) -> set[int]:
    return {int(name.removesuffix(".png")) % count for name in names}


class TestHash:
    @given(st.lists(st.text(min_size=1), min_size=1, max_size=60), st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def test_no_value_is_in_two_parts(self, values: list[str], test: float, val: float, seed: int) -> None:
        numbers, counts = parts_of(Split(test=test, val=val, seed=seed), values + values, "x")
        found: dict[str, set[int]] = {}
        for value, number in zip(values + values, numbers.tolist(), strict=True):
            found.setdefault(value, set()).add(number)
        assert all(len(parts) == 1 for parts in found.values())
        assert sum(counts.samples.values()) == 2 * len(values) and sum(counts.values.values()) == len(set(values))

    @given(st.sets(st.text(min_size=1), min_size=1, max_size=40), st.sets(st.text(min_size=1), max_size=40), st.integers(0, 9))
    @settings(max_examples=60, deadline=None)
    def test_rows_that_are_added_move_no_other(self, old: set[str], new: set[str], seed: int) -> None:
        split = Split(test=0.2, val=0.2, seed=seed)
        before, after = sorted(old), sorted(old | new)
        earlier = dict(zip(before, parts_of(split, before, "x")[0].tolist(), strict=True))
        later = dict(zip(after, parts_of(split, after, "x")[0].tolist(), strict=True))
        assert earlier == {value: later[value] for value in before}

    @given(st.floats(0.02, 0.45), st.floats(0.02, 0.45), st.integers(0, 10_000))
    @settings(max_examples=40, deadline=None)
    def test_shares_are_near_what_was_asked_for(self, test: float, val: float, seed: int) -> None:
        count = 3000
        _, counts = parts_of(Split(test=test, val=val, seed=seed), [f"patient {number}" for number in range(count)], "x")
        for part, share in (("test", test), ("val", val), ("train", 1 - test - val)):
            spread = math.sqrt(share * (1 - share) / count)  # of a binomial's share; 6 of them are met once in 500 million
            assert abs(counts.values[part] / count - share) <= 6 * spread

    def test_another_validation_share_leaves_the_test_part(self) -> None:
        values = [str(number) for number in range(500)]
        few, many = Split(test=0.2, val=0.1), Split(test=0.2, val=0.4)
        assert [few.part_of(value) == "test" for value in values] == [many.part_of(value) == "test" for value in values]
        assert [Split(test=0.2, seed=1).part_of(value) for value in values] != [few.part_of(value) for value in values]

    def test_known_parts_stay_so_for_good(self) -> None:
        split = Split(test=0.25, val=0.25)
        assert [split.part_of(f"p{number}") for number in range(8)] == KNOWN

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"test": 0.6, "val": 0.4}, r"test 0.6 and val 0.4 leave nothing for training"),
            ({"test": 1.5}, r"split.test 1.5 must be"),
            ({"part": "tset"}, r"split.part 'tset' is unknown: did you mean 'test'"),
            ({"bye": "patient"}, r"split has no setting 'bye'"),
        ],
    )
    def test_mistakes(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Split.of(given)


KNOWN = ["val", "test", "train", "train", "train", "train", "val", "test"]


class TestTable:
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_patients_stay_together_and_all_rows_are_there(self, tmp_path: Path, kind: str) -> None:
        table = cohort(tmp_path, kind=kind)
        found = {part: keys(table, part) for part in PARTS}
        own = {part: patients(names) for part, names in found.items()}
        assert all(own[one].isdisjoint(own[other]) for one in PARTS for other in PARTS if one != other)
        assert sum(map(len, found.values())) == 36 == len(keys(table, None)) and all(found.values())

    def test_kinds_of_table_agree(self, tmp_path: Path) -> None:
        assert keys(cohort(tmp_path / "a"), "test") == keys(cohort(tmp_path / "b", kind="csv"), "test")

    def test_where_chooses_and_does_not_move(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        early = {name for name in keys(table, "val") if int(name.removesuffix(".png")) // 12 % 2 == 0}
        assert keys(table, "val", where={"year": 2000}) == early and early

    def test_without_a_column_images_are_divided(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        parts = [TableSource(str(table), split={"test": 0.3, "part": part}) for part in ("train", "test")]
        assert sum(map(len, parts)) == 36 and len(parts[1]) not in (0, 36)

    def test_classes_are_numbered_alike_in_all_parts(self, tmp_path: Path) -> None:
        table = cohort(tmp_path, finding=lambda number: f"finding {number % 12}")
        names = [TableSource(str(table), label_column="finding", split={**HALVES, "part": part}).class_names for part in PARTS]
        assert names[0] == names[1] == names[2] and len(names[0]) == 12

    def test_an_image_of_two_patients(self, tmp_path: Path) -> None:
        table = cohort(tmp_path)
        with table.open("a") as file:
            file.write(json.dumps({"image": "0.png", "caption": "again", "patient": 5}) + "\n")
        with pytest.raises(InputError, match=r"its image has patient '0' and '5', and cannot be in two parts"):
            keys(table, "train")

    def test_rows_without_a_patient_are_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        table = cohort(tmp_path, patient=lambda number: number % 12 if number > 3 else "")
        assert len(keys(table, None)) == 36
        assert "4 of 36 pairs have no patient, and are divided by image" in caplog.text

    def test_mistakes(self, tmp_path: Path) -> None:
        table = cohort(tmp_path, patients=1)
        with pytest.raises(InputError, match=r"has no column 'pateint': did you mean 'patient'"):
            TableSource(str(table), split={"by": "pateint", "test": 0.1})
        with pytest.raises(InputError, match=r"part 'val' is empty, of 1 values of 'patient' none falls into it"):
            keys(table, "val")

    def test_what_is_kept_of_a_large_table_is_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_cache, "LARGE", 1)
        monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))
        table = cohort(tmp_path)
        first = [keys(table, part) for part in PARTS]
        source = TableSource(str(table), split={**HALVES, "part": "test"})
        assert first == [keys(table, part) for part in PARTS] and "this is test" in source.layout
        lonely = cohort(tmp_path / "lonely", patients=1)
        for _ in range(2):
            with pytest.raises(InputError, match="part 'val' is empty"):
                keys(lonely, "val")


class TestFiles:
    def folder(self, path: Path) -> Path:
        for number in range(24):
            place = path / ("cat", "dog")[number // 3 % 2] / f"patient{number // 3}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
        return path

    def test_a_pattern_keeps_folders_together(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        split = {"by": r"(patient\d+)/", "test": 0.4}
        found = {}
        for part in ("train", "test"):
            source = pair_sources.build({"name": "divided", "source": str(folder), "split": {**split, "part": part}})
            found[part] = {Path(source.place(index)).parent.name for index in range(len(source))}
        assert found["train"].isdisjoint(found["test"]) and len(found["train"] | found["test"]) == 8
        assert source.class_names == ["cat", "dog"] and "split by (patient" in source.layout

    def test_a_folder_may_be_moved(self, tmp_path: Path) -> None:
        folder, split = self.folder(tmp_path / "here"), {"test": 0.4, "part": "test"}
        here = pair_sources.build({"name": "divided", "source": str(folder), "split": split})
        before = [Path(pair.key).name for pair in here]
        folder.rename(tmp_path / "there")
        source = pair_sources.build({"name": "divided", "source": str(tmp_path / "there"), "split": split})
        assert before == [Path(pair.key).name for pair in source] and 0 < len(before) < 24

    def test_mistakes(self, tmp_path: Path) -> None:
        folder = str(self.folder(tmp_path))
        with pytest.raises(InputError, match=r"split.by '\(' is no regular expression"):
            pair_sources.build({"name": "divided", "source": folder, "split": {"by": "("}})
        with pytest.raises(InputError, match=r"split.by 'scan' does not occur in"):
            pair_sources.build({"name": "divided", "source": folder, "split": {"by": "scan"}})


class TestStages:
    def test_a_divided_source_gives_all_stages(self, tmp_path: Path) -> None:
        data = ClipDataModule({"name": str(cohort(tmp_path)), "split": HALVES}, local_batch_size=2)
        found = [{data.source(part)[index].key for index in range(len(data.source(part)))} for part in PARTS]
        assert found == [keys(tmp_path / "notes.jsonl", part) for part in PARTS]

    def test_parts_inside_of_other_sources(self, tmp_path: Path) -> None:
        table = {"name": str(cohort(tmp_path)), "split": HALVES}
        data = ClipDataModule({"name": "mix", "sources": [table]}, table, local_batch_size=2)
        assert len(data.source("train")) == len(keys(tmp_path / "notes.jsonl", "train"))
        assert len(data.source("val")) == len(keys(tmp_path / "notes.jsonl", "val"))

    def test_batches(self, tmp_path: Path) -> None:
        data = ClipDataModule({"name": str(cohort(tmp_path)), "split": HALVES}, local_batch_size=4)
        batches = list(data.attach(small_module()).evaluation_loader(data.source("test")))
        assert {key for batch in batches for key in batch.keys} == keys(tmp_path / "notes.jsonl", "test")

    def test_inspect_says_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table, output = cohort(tmp_path), tmp_path / "sheet.html"
        setting = "split={by: patient, test: 0.3, val: 0.3}"
        assert main(["data", "inspect", "--data", str(table), "--set", setting, "--output", str(output)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "split by patient" in output.read_text() and "values" in said
