"""Columns beyond image and text from every kind of source: they arrive as they were, and survive packing."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.test_column_files import pcm, saved
from data.test_columns import Listed, Reader, batches, pad
from data.test_shards import jpeg, tar_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, gradient

from lightning_clip import ClipDataModule, InputError
from lightning_clip.cli import main
from lightning_clip.core.types import Pair
from lightning_clip.data import FewShotSource, PairSource, ShardSource, TableSource, pair_sources
from lightning_clip.data.npy_files import npy_bytes
from lightning_clip.data.pack_shards import PackOptions, pack_shards
from lightning_clip.data.sources import HuggingFaceSource, MixedSource, Subset
from lightning_clip.data.verify import verify_pairs

Rows = list[dict[str, Any]]


def table(folder: Path, rows: Rows, kind: str = "jsonl") -> Path:
    """A table of images `N.png` with further columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        row.setdefault("image", f"{number}.png")
        (folder / f"{number}.png").write_bytes(encoded(gradient(12 + number, 10), "PNG"))
    path = folder / f"captions.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def opened(path: Path, columns: Any, **more: Any) -> PairSource:
    return pair_sources.build({"name": str(path), "caption_column": None, "columns": columns, **more})


def shard(folder: Path, members: dict[str, bytes], name: str = "0.tar") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(tar_bytes(members))
    return str(folder / name)


class TestTables:
    @pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
    def test_numbers_and_stacks(self, tmp_path: Path, kind: str) -> None:
        rows = [{"lat": 48.5, "lon": 2.0, "year": 1999}, {"lat": -3.0, "lon": 7.25, "year": 2001}]
        source = opened(table(tmp_path, rows, kind), {"gps": ["lat", "lon"], "year": "year", "north": "lat"})
        assert source[1].columns["gps"].tolist() == [-3.0, 7.25] and source[1].columns["north"] == -3.0
        assert [source[number].columns["year"] for number in range(2)] == [1999, 2001]
        assert list(source[0].columns) == ["gps", "year", "north"] and source[0].captions == ()
        (batch,) = batches(source, Reader({"image": None, "gps": None, "year": None}), batch=2)
        assert batch.columns["gps"].dtype == torch.float32 and batch.columns["year"].dtype == torch.int64
        assert "north" not in batch.columns

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_one_float_makes_a_column_of_floats(self, tmp_path: Path, kind: str) -> None:
        """Or a batch that happens to hold whole numbers alone would be of another kind."""
        rows = [{"depth": 3}, {"depth": 4}, {"depth": 0.5}, {"depth": 2}]
        source = opened(table(tmp_path, rows, kind), "depth")
        assert [type(source[number].columns["depth"]) for number in range(4)] == [float] * 4
        rows = [{"pose": [1, 2]}, {"pose": [0, 0.5]}]
        source = opened(table(tmp_path / "lists", rows, kind), ["pose"])
        assert source[0].columns["pose"].dtype == np.float64 and source[1].columns["pose"].tolist() == [0, 0.5]

    @pytest.mark.parametrize(
        ("cell", "value"),
        [("1e3", 1000.0), ("-.5", -0.5), ("007", 7.0), ("inf", np.inf), ("[1, 2.5]", [1, 2.5]), ("(1, 2)", [1, 2]),
         ("[[1],[2]]", [[1], [2]]), (" 3 ", 3), ("[true, false]", [True, False]), ("[True, False]", [True, False])],
    )  # fmt: skip
    def test_how_numbers_are_written(self, tmp_path: Path, cell: str, value: Any) -> None:
        source = opened(table(tmp_path, [{"x": cell}], "csv"), "x")
        np.testing.assert_array_equal(source[0].columns["x"], value)

    def test_flags_and_texts(self, tmp_path: Path) -> None:
        rows = [{"indoor": "True", "dna": "ACGT"}, {"indoor": "false", "dna": "12"}]
        source = opened(table(tmp_path, rows, "csv"), ["indoor", "dna"])
        assert [source[number].columns["indoor"] for number in range(2)] == [True, False]
        assert [source[number].columns["dna"] for number in range(2)] == ["ACGT", "12"]

    def test_uneven_lists_are_for_the_tower(self, tmp_path: Path) -> None:
        rows = [{"series": [1.0, 2.0]}, {"series": [3.0]}]
        source = opened(table(tmp_path, rows), "series")
        (batch,) = batches(source, Reader({"series": pad}), batch=2)
        assert sorted(batch.columns["series"]["length"].tolist()) == [1, 2]
        with pytest.raises(InputError, match="column 'series' has values of different shapes in one batch.*pad"):
            batches(source, Reader({"series": None}), batch=2)

    def test_fields_of_json(self, tmp_path: Path) -> None:
        source = opened(table(tmp_path, [{"meta": {"at": [1, 2]}}]), {"place": "meta.at"})
        assert source[0].columns["place"].tolist() == [1, 2]

    def test_files_beside_the_images(self, tmp_path: Path) -> None:
        path = table(tmp_path, [{"sound": "a.wav", "depth": "d.npy"}, {"sound": "b.WAV", "depth": "gone.npy"}], "csv")
        (tmp_path / "a.wav").write_bytes(pcm(np.full((5, 2), 2**14, np.int16), 8000))
        (tmp_path / "b.WAV").write_bytes(b"noise")
        (tmp_path / "d.npy").write_bytes(saved(np.eye(3)))
        source = opened(path, ["sound", "depth"])
        assert source[0].columns["sound"].tolist() == [[0.5] * 5] * 2 and source[0].columns["depth"].shape == (3, 3)
        assert source[0].metadata["sound.sample_rate"] == 8000 and "sound.sample_rate" not in source[1].metadata
        for column, reason in (("sound", "column 'sound' is no .wav file"), ("depth", "column 'depth' has no file")):
            (batch,) = batches(source, Reader({column: None}), batch=2)
            assert [skip.reason for skip in batch.skipped] == [reason]

    def test_bytes_in_parquet(self, tmp_path: Path) -> None:
        sound = pcm(np.full((3, 1), 2**14, np.int16))
        rows = [{"a": npy_bytes([1, 2]), "b": {"bytes": sound, "path": None}}, {"a": b"??", "b": None}]
        source = opened(table(tmp_path, rows, "parquet"), ["a", "b"])
        assert source[0].columns["a"].tolist() == [1, 2] and source[0].columns["b"].tolist() == [[0.5] * 3]
        with pytest.raises(ValueError, match="column 'a' has bytes that are neither .npy nor .wav"):
            source[1]

    @pytest.mark.parametrize("empty", ["", " ", "nan", "NaN"])
    def test_empty_cells(self, tmp_path: Path, empty: str) -> None:
        rows = [{"lat": 1.5, "lon": 2}, {"lat": empty, "lon": 2}, {"lat": 2.5, "lon": 3}]
        (batch,) = batches(opened(table(tmp_path, rows, "csv"), {"gps": ["lat", "lon"]}), Reader({"gps": None}), batch=3)
        assert [skip.reason for skip in batch.skipped] == ["no column 'gps'"] and batch.columns["gps"].shape == (2, 2)

    def test_a_cell_that_is_no_number(self, tmp_path: Path) -> None:
        source = opened(table(tmp_path, [{"lat": 1.5}, {"lat": "north"}, {"lat": [1, None]}]), "lat")
        (batch,) = batches(source, Reader({"lat": None}), batch=3)
        assert {skip.reason for skip in batch.skipped} == {"column 'lat' is no number"} and batch.size == 1

    def test_without_images(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text("text,x\na dog,1.5\na cat,2.5\n")
        source = TableSource(str(path), image_column=None, caption_column="text", columns="x")
        assert source[1] == Pair(None, ("a cat",), "1", columns=source[1].columns) and source[1].columns["x"] == 2.5
        (batch,) = batches(source, Reader({"x": None}), batch=2)
        assert (batch.image is None and batch.captions == [("a dog",), ("a cat",)]) or batch.captions[0] == ("a cat",)

    def test_errors(self, tmp_path: Path) -> None:
        path = table(tmp_path, [{"lat": 1.5, "lon": 2}])
        with pytest.raises(InputError, match="has no column 'lng': did you mean 'lon'"):
            opened(path, {"gps": ["lat", "lng"]})
        with pytest.raises(InputError, match=r"columns \['lat', 'lat'\] names a column twice"):
            opened(path, ["lat", "lat"])
        with pytest.raises(InputError, match="columns gives 'text' the columns .*another name than image and text"):
            opened(path, {"text": "lat"})
        with pytest.raises(InputError, match=r"columns gives 'gps' the columns \[\]: give at least one"):
            opened(path, {"gps": []})

    def test_stacks_that_do_not_fit(self, tmp_path: Path) -> None:
        source = opened(table(tmp_path, [{"a": [1, 2], "b": 3}, {"a": "x.npy", "b": 3}]), {"both": ["a", "b"]})
        with pytest.raises(ValueError, match="column 'both' stacks values of different shapes"):
            source[0]
        with pytest.raises(ValueError, match="column 'both' stacks files: give each its own column"):
            source[1]


class TestShards:
    def members(self, count: int = 4) -> dict[str, bytes]:
        found = {}
        for number in range(count):
            found[f"{number:04d}.jpg"] = jpeg(number)
            found[f"{number:04d}.GPS.npy"] = saved(np.array([number, 0.5]))
            found[f"{number:04d}.sound.wav"] = pcm(np.full((number + 1, 1), 2**14, np.int16))
        return found

    def test_members_by_number_and_as_a_stream(self, tmp_path: Path) -> None:
        source = ShardSource(shard(tmp_path, self.members()))
        stream = pair_sources.build({"name": f"pipe:cat {tmp_path}/0.tar", "samples": 4, "streams": 1, "buffer": 1})
        dealt = stream.dealt(0, 2, 0, 1)  # type: ignore[attr-defined]
        assert len(source) == 4
        for number in (2, 0, 3, 1):
            for pair in (source[number], dealt.visited(0, number)):
                assert pair.captions == () and pair.key == f"{number:04d}" and pair.image == jpeg(number)
                assert pair.columns["GPS"].tolist() == [number, 0.5] and pair.columns["sound"].shape == (1, number + 1)
                assert pair.metadata == {"sound.sample_rate": 16000} and sorted(pair.columns) == ["GPS", "sound"]

    def test_streams_in_training(self, tmp_path: Path) -> None:
        shard(tmp_path, self.members())
        spec = {"name": f"pipe:cat {tmp_path}/0.tar", "samples": 8, "streams": 1, "buffer": 2}
        for workers in (0, 1):
            found = batches(spec, Reader({"image": None, "GPS": None}), workers=workers)
            assert [batch.columns["GPS"].shape for batch in found] == [(4, 2)] * 2
            with pytest.raises(InputError, match="no source has a column 'gps'.*there is 'GPS', 'image', 'sound'"):
                batches(spec, Reader({"gps": None}), workers=workers)

    def test_what_makes_a_sample(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        members = {
            "a.jpg": jpeg(0), "a.x.npy": saved(1.0), "b.txt": b"text", "b.x.npy": saved(2.0), "c.x.npy": saved(3.0),
            "c.y.npy": saved(4.0), "d.jpg": jpeg(1), "e.x.npy": saved(5.0), "f.jpg": jpeg(2), "f.txt": b"f", "g.wav": pcm(
                np.zeros((2, 1), np.int16)), "g.json": b'{"caption": "sound"}', "h.jpg": jpeg(3), "h.other": b"",
        }  # fmt: skip
        source = ShardSource(shard(tmp_path, members))
        assert [source[number].key for number in range(len(source))] == ["a", "b", "c", "f", "g"]
        assert "2 with no caption, 1 with no image" in caplog.text
        assert source[4].captions == ("sound",) and source[4].columns["wav"].shape == (1, 2)
        assert source[2].columns["y"] == 4.0 and source[2].image is None

    def test_a_broken_member_matters_to_who_reads_it(self, tmp_path: Path) -> None:
        members = self.members()
        members["0001.GPS.npy"] = saved(np.array([{}], dtype=object), pickled=True)
        members["0002.sound.wav"] = members["0002.sound.wav"][:-3]
        source = ShardSource(shard(tmp_path, members))
        assert all(batch.size == 4 for batch in batches(source, Reader({"image": None})))
        (batch,) = batches(source, Reader({"GPS": None}))
        assert batch.skipped[0].reason == "column 'GPS' is a pickled .npy file: save it with allow_pickle=False"
        (batch,) = batches(source, Reader({"sound": pad_sound}))
        assert [skip.reason for skip in batch.skipped] == ["column 'sound' is a .wav file that was cut off"]
        assert batch.columns["sound"].shape == (3, 1, 4)
        assert [(fault.key, fault.reason) for fault in verify_pairs(source).faults] == [
            ("0001", "column 'GPS' is a pickled .npy file: save it with allow_pickle=False"),
            ("0002", "column 'sound' is a .wav file that was cut off"),
        ]

    def test_an_index_of_before_is_made_anew(self, tmp_path: Path) -> None:
        path = shard(tmp_path, self.members())
        assert len(ShardSource(path)) == 4
        index = Path(f"{path}.index")
        index.write_bytes(index.read_bytes().replace(b"tar index 2", b"tar index 1", 1))
        assert len(ShardSource(path)) == 4 and index.read_bytes().startswith(b"lightning_clip tar index 4")

    def test_images_and_texts_are_what_they_were(self, tmp_path: Path) -> None:
        """A further member changes neither which samples there are nor what they hold."""
        members = {"a.jpg": jpeg(0), "a.txt": b"a", "b.jpg": jpeg(1), "c.jpg": jpeg(2), "c.txt": b"c"}
        plain = ShardSource(shard(tmp_path, members))
        more = ShardSource(shard(tmp_path, {**members, "c.seg.npy": b"??"}, "1.tar"))
        assert len(plain) == len(more) == 2
        assert [more[n].image for n in range(2)] == [plain[n].image for n in range(2)]
        assert plain[0] == Pair(jpeg(0), ("a",), "a", columns=plain[0].columns) and dict(plain[0].columns) == {}


def pad_sound(values: list[np.ndarray]) -> torch.Tensor:
    longest = max(value.shape[1] for value in values)
    return torch.stack([torch.nn.functional.pad(torch.from_numpy(value), (0, longest - value.shape[1])) for value in values])


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
INTS = st.integers(-(2**40), 2**40)


@st.composite
def cells(draw: st.DrawFn) -> Rows:
    """Rows whose columns are each of one kind."""
    kinds = {
        "Scalar": FLOATS, "whole": INTS, "flag": st.booleans(), "name": st.text("ACGT\u00e9\u4e2d", min_size=1, max_size=6),
        "list": st.lists(FLOATS, min_size=2, max_size=2), "grid": st.tuples(st.lists(INTS, min_size=2, max_size=2)).map(list),
    }  # fmt: skip
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, unique=True))
    return draw(st.lists(st.fixed_dictionaries({name: kinds[name] for name in names}), min_size=1, max_size=4))


class TestPacked:
    @settings(max_examples=40, deadline=None)
    @given(cells(), st.sampled_from(["csv", "jsonl", "parquet"]))
    def test_columns_survive(self, rows: Rows, kind: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            names = list(rows[0])
            source = opened(table(Path(folder), rows, kind), {f"my.{name}": name for name in names})
            pack_shards(source, f"{folder}/s-%d.tar", 2)
            packed = ShardSource(f"{folder}/s-*.tar")
            assert len(packed) == len(source) == len(rows)
            for number, row in enumerate(rows):
                found, before = packed[number], source[number]
                assert found.image == before.image and found.captions == ()
                for name in names:
                    value = found.columns[f"my.{name}"]
                    np.testing.assert_array_equal(value, before.columns[f"my.{name}"])
                    np.testing.assert_array_equal(value, row[name])
                    assert type(value) is type(before.columns[f"my.{name}"])

    def test_files_stay_as_they_are(self, tmp_path: Path) -> None:
        sound, depth = pcm(np.arange(9, dtype=np.int16)[:, None], 8000), saved(np.eye(2, dtype=np.float16))
        members = {"a.jpg": jpeg(0), "a.sound.wav": sound, "a.Depth.npy": depth, "a.txt": b"a"}
        source = ShardSource(shard(tmp_path, members))
        pack_shards(source, str(tmp_path / "packed" / "s-%d.tar"))
        again = ShardSource(str(tmp_path / "packed" / "s-0.tar"))
        read = again.shards.reader(0).read
        assert read("000000000.sound.wav") == sound and read("000000000.Depth.npy") == depth
        assert again[0].metadata["sound.sample_rate"] == 8000 and again[0].captions == ("a",)

    def test_tensors_and_samples_without_images(self, tmp_path: Path) -> None:
        pairs: list[Pair | None] = [
            Pair(None, (), "a", columns={"wave": torch.arange(3.0), "none": None}),
            Pair(None, ("b",), "b", columns={"wave": torch.ones(2)}),
            Pair(None, ("c",), "c"),
            Pair(b"", (), "d", columns={"none": None}),
            Pair(None, (), "e", columns={"deep": [1, [2]]}),
        ]
        options = PackOptions(hash=True, dedupe=True)
        summary = pack_shards(Listed(pairs), str(tmp_path / "s-%d.tar"), options=options)
        assert dict(summary.dropped) == {
            "no image": 1, "no caption": 1, "column 'deep' is no array of numbers (list)": 1,
        }  # fmt: skip
        packed = ShardSource(str(tmp_path / "s-0.tar"))
        assert [packed[number].columns["wave"].tolist() for number in range(2)] == [[0, 1, 2], [1, 1]]
        assert packed[1].captions == ("b",) and packed[0].image is None

    def test_check_drops_columns_that_do_not_decode(self, tmp_path: Path) -> None:
        members = {"a.jpg": jpeg(0), "a.x.npy": b"??", "b.jpg": jpeg(1), "b.x.npy": saved(1)}
        source = ShardSource(shard(tmp_path, members))
        assert pack_shards(source, str(tmp_path / "all" / "s-%d.tar")).pairs == 2
        checked = pack_shards(source, str(tmp_path / "checked" / "s-%d.tar"), check=True)
        assert checked.pairs == 1 and dict(checked.dropped) == {"column 'x' is no .npy file": 1}


class TestOtherSources:
    def test_hugging_face(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            picture=datasets.Image(), lat=datasets.Value("float32"), lon=datasets.Value("float64"),
            year=datasets.Value("int16"), grid=datasets.Array2D((2, 3), "float32"), code=datasets.Value("string"),
            meta={"at": [datasets.Value("int32")]},
        )  # fmt: skip
        rows = [
            {"picture": {"bytes": jpeg(n), "path": None}, "lat": n + 0.5, "lon": 2.0, "year": 2000 + n,
             "grid": [[n, 1, 2], [3, 4, 5]], "code": "AC", "meta": {"at": [n, 7]}}
            for n in range(3)
        ]  # fmt: skip
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path))
        columns = {"gps": ["lat", "lon"], "year": "year", "grid": "grid", "code": "code", "at": "meta.at"}
        source = HuggingFaceSource(str(tmp_path), image_column="picture", caption_column=None, columns=columns)
        pair = source[1]
        assert pair.image == jpeg(1) and pair.captions == source.captions(1) == ()
        assert pair.columns["gps"].tolist() == [1.5, 2.0] and pair.columns["year"] == 2001 and pair.columns["code"] == "AC"
        assert pair.columns["grid"].tolist() == [[1, 1, 2], [3, 4, 5]] and pair.columns["at"].tolist() == [1, 7]
        (batch,) = batches(source, Reader({"gps": None, "grid": None}), batch=3)
        assert batch.columns["grid"].dtype == torch.float32 and batch.columns["grid"].shape == (3, 2, 3)
        with pytest.raises(InputError, match="has no column 'latt': did you mean 'lat'"):
            HuggingFaceSource(str(tmp_path), image_column=None, caption_column=None, columns="latt")

    def test_hugging_face_sound(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        kinds = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        features = datasets.Features(audio=kinds, text=datasets.Value("string"))
        sound = pcm(np.full((4, 1), 2**14, np.int16), 8000)
        rows = [{"audio": {"bytes": sound, "path": None}, "text": "a tone"}]
        made = datasets.Dataset.from_list(rows, features=features).cast_column("audio", datasets.Audio(decode=False))
        made.cast_column("audio", datasets.Audio()).save_to_disk(str(tmp_path))
        pair = HuggingFaceSource(str(tmp_path), image_column=None, columns=["audio"])[0]
        assert pair.columns["audio"].tolist() == [[0.5] * 4] and pair.metadata == {"audio.sample_rate": 8000}
        assert pair.captions == ("a tone",) and pair.image is None

    def test_mixes_subsets_and_few_shots(self, tmp_path: Path) -> None:
        path = table(tmp_path, [{"x": n + 0.5, "kind": "ab"[n % 2]} for n in range(8)])
        source = opened(path, "x", label_column="kind")
        few = FewShotSource(source, shots=2)
        assert sorted(few[n].columns["x"] for n in range(4)) == sorted(source[int(n)].columns["x"] for n in few.indices)
        mixed = MixedSource([Subset(source, [3]), few])
        assert mixed[0].columns["x"] == 3.5 and len(mixed) == 5
        found = batches(mixed, Reader({"x": None}), batch=5)
        assert found[0].columns["x"].shape == (5,)

    def test_a_mix_whose_part_lacks_it(self, tmp_path: Path) -> None:
        rows = [{"x": 1.5, "caption": "a"}, {"x": 2.5, "caption": "b"}]
        path = table(tmp_path, rows)
        spec = {"name": "mix", "sources": [{"name": str(path), "columns": ["x"]}, str(path)]}
        with pytest.raises(InputError, match="source 2 of 2 has no column 'x', which a tower reads .there is 'image', 'text'"):
            batches(spec, Reader({"x": None}), batch=2)

    def test_wrong_kind_of_setting(self, tmp_path: Path) -> None:
        path = table(tmp_path, [{"x": 1.5}])
        with pytest.raises(InputError, match="columns 7 must be a name, a list of names or a mapping"):
            ClipDataModule({"name": str(path), "columns": 7}).source("train")


class TestCommands:
    def test_pack_inspect_verify(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        path = table(tmp_path, [{"lat": 1.5, "lon": 2, "sound": f"{n}.wav"} for n in range(3)])
        for number in range(3):
            (tmp_path / f"{number}.wav").write_bytes(pcm(np.zeros((5, 1), np.int16), 8000))
        given = ["--data", str(path), "--caption-column", "", "--column", "gps=lat,lon", "--column", "sound"]
        main(["data", "pack", *given, "--output", str(tmp_path / "s-%d.tar")])
        main(["data", "inspect", "--data", str(tmp_path / "s-0.tar"), "--output", str(tmp_path / "sheet.png")])
        printed = capsys.readouterr().out
        assert "wrote 3 pairs" in printed and (tmp_path / "sheet.png").exists()
        assert "column gps: float64 (2,)" in printed and "column sound: float32 (1, 5) at 8000 Hz" in printed
        main(["data", "verify", *given])
        assert main(["data", "verify", *given, "--column", "depth"]) == 2
        assert "has no column 'depth'" in capsys.readouterr().err

    def test_inspect_without_images(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = table(tmp_path, [{"x": [1.5] * (1 + n % 5)} for n in range(10)])
        given = ["--data", str(path), "--image-column", "", "--caption-column", "", "--column", "x"]
        main(["data", "inspect", *given, "--output", str(tmp_path / "sheet.png")])
        printed = capsys.readouterr().out
        assert "column x: float64 (1,)" in printed and "column x: other shapes" in printed
        assert "there is no contact sheet" in printed and not (tmp_path / "sheet.png").exists()
