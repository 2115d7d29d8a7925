"""Indexes of rendered pictures: built, added to, killed, searched; every figure against the features themselves."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_module
from waiting import exit_code

from lightning_clip import InputError
from lightning_clip.applications.search import Query, SearchIndex, build_index
from lightning_clip.applications.search import looking as looking_room
from lightning_clip.cli import main
from lightning_clip.core.types import Pair
from lightning_clip.curation import Processes
from lightning_clip.data.sources import PairSource
from lightning_clip.model.predictor import Predictor

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 40)}


@pytest.fixture(scope="module")
def predictor(checkpoint: str) -> Predictor:
    from lightning_clip.loading import open_predictor

    return open_predictor(checkpoint)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures with a caption beside each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (name, colour) in enumerate(COLOURS.items()):
        draw(folder, name, colour, f"a {name} field, number {number}")
    return folder


class Listed(PairSource):
    """Pairs from memory."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def draw(folder: Path, name: str, colour: tuple[int, int, int], caption: str) -> None:
    noise = np.random.default_rng(sum(colour)).integers(0, 25, (40, 48, 3))
    Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption)


def keys(hits: list[Any]) -> list[str]:
    return [hit.entry.key for hit in hits]


class TestBuilding:
    def test_what_is_in_it(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        built = build_index(tmp_path / "index", str(pictures), predictor)
        assert (built.pictures, built.added, built.computed, built.unchanged) == (4, 4, 4, 0)
        index = SearchIndex(tmp_path / "index")
        [entry] = index.entries.get([0])
        assert (entry.key, entry.captions, entry.width, entry.height) == ("blue", ("a blue field, number 2",), 48, 40)
        assert entry.place == str(pictures / "blue.png")
        with Image.open(BytesIO(index.entries.thumbnail(0))) as small:
            assert small.size == (48, 40)
        expected = predictor.encode_image([pictures / f"{name}.png" for name in sorted(COLOURS)]).numpy()
        assert np.allclose(index.vectors_of(range(4)), expected, atol=1e-3)  # float16

    @pytest.mark.parametrize("workers", [1, 2])
    def test_units_and_workers_change_nothing(self, workers: int, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        build_index(tmp_path / "one", str(pictures), predictor)
        build_index(tmp_path / "other", str(pictures), predictor, executor=Processes(workers), unit=3)
        one, other = SearchIndex(tmp_path / "one"), SearchIndex(tmp_path / "other")
        assert one.entries.get(range(4)) == other.entries.get(range(4))
        assert np.allclose(one.vectors_of(range(4)), other.vectors_of(range(4)), atol=1e-3)

    def test_added_to_without_computing_anything_again(
        self, pictures: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One picture is new, one has changed, one is a copy of another."""
        build_index(tmp_path / "index", str(pictures), predictor)
        before = SearchIndex(tmp_path / "index").vectors_of(range(4))
        draw(pictures, "white", (240, 240, 240), "a white field")
        draw(pictures, "red", (250, 90, 90), "a lighter red")
        (pictures / "copy.png").write_bytes((pictures / "blue.png").read_bytes())
        (pictures / "copy.txt").write_text("blue once more")
        built = build_index(tmp_path / "index", str(pictures), predictor)
        assert (built.pictures, built.added, built.computed, built.unchanged) == (6, 3, 2, 3)
        index = SearchIndex(tmp_path / "index")
        assert np.array_equal(index.vectors.rows(range(4)), before)
        [copy] = index.words("once more")
        assert (copy.entry.width, copy.entry.height) == (48, 40)
        assert np.array_equal(index.vectors_of([copy.entry.id])[0], before[0])
        red = predictor.encode_image([pictures / "red.png"])[0].numpy()
        [found] = index.search(red, 1)
        assert found.entry.captions == ("a lighter red",)
        assert "red" not in keys(index.words("number"))

    def test_captions_that_have_changed(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        build_index(tmp_path / "index", str(pictures), predictor)
        (pictures / "red.txt").write_text("a crimson field")
        assert build_index(tmp_path / "index", str(pictures), predictor).unchanged == 4
        index = SearchIndex(tmp_path / "index")
        assert keys(index.words("crimson")) == ["red"] and keys(index.words("red")) == []

    def test_keys_that_repeat(self, predictor: Predictor, tmp_path: Path) -> None:
        """As in shards of several packings: nothing is lost, and a later build finds all of them."""
        shown = [torch.full((3, 8, 8), 60 * number, dtype=torch.uint8) for number in range(4)]
        pairs = [Pair(image, (f"picture {number}",), f"{number % 2}") for number, image in enumerate(shown)]
        for added in (4, 0):
            built = build_index(tmp_path / "index", Listed(pairs), predictor, unit=1)
            assert (built.pictures, built.added, built.unchanged, built.gone) == (4, added, 4 - added, 0)
        built = build_index(tmp_path / "index", Listed([*pairs[:3], replace(pairs[3], image=shown[0])]), predictor)
        assert (built.pictures, built.added, built.computed, built.gone) == (4, 1, 0, 1)

    def test_pruned(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        build_index(tmp_path / "index", str(pictures), predictor)
        (pictures / "green.png").unlink()
        (pictures / "green.txt").unlink()
        assert build_index(tmp_path / "index", str(pictures), predictor).gone == 0
        built = build_index(tmp_path / "index", str(pictures), predictor, prune=True)
        assert (built.gone, built.pictures) == (1, 3)
        index = SearchIndex(tmp_path / "index")
        query = Query(texts=["a green field"]).vector(predictor)
        assert sorted(keys(index.search(query, 10))) == ["blue", "red", "yellow"]
        with pytest.raises(InputError, match="has no picture 1"):
            index.vectors_of([1])

    def test_what_cannot_be_read_is_counted(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        (pictures / "red.png").write_bytes(b"no picture")
        built = build_index(tmp_path / "index", str(pictures), predictor)
        assert (built.pictures, sum(built.skipped.values())) == (3, 1)
        assert list(built.examples.values()) == [str(pictures / "red.png")]

    def test_nothing_can_be_read(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        for path in pictures.glob("*.png"):
            path.write_bytes(b"no picture")
        with pytest.raises(InputError, match="no picture of .* can be read: "):
            build_index(tmp_path / "index", str(pictures), predictor)

    def test_another_model(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        build_index(tmp_path / "index", str(pictures), predictor)
        with pytest.raises(InputError, match="was built with another model: search it with that one"):
            build_index(tmp_path / "index", str(pictures), small_module().predictor)

    def test_the_graph_takes_up_what_is_many(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        pytest.importorskip("usearch")
        build_index(tmp_path / "index", str(pictures), predictor, store="usearch")
        index = SearchIndex(tmp_path / "index")
        assert index.vectors.about() == "files: 0 searched exactly, 4 by the graph"
        blue = predictor.encode_image([pictures / "blue.png"])[0].numpy()
        assert keys(index.search(blue, 1)) == ["blue"]


def test_a_killed_build_goes_on(pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
    """Killed while it works on the third unit: the first two are not looked at again."""
    seen = tmp_path / "seen"

    def build(kill: bool) -> None:
        class Counting(looking_room.Looking):
            def __call__(self, number: int, start: int, stop: int) -> list[Any]:
                with seen.open("a") as file:
                    file.write(f"{number} ")
                if kill and number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__call__(number, start, stop)

        from lightning_clip.applications.search import build as room

        room.Looking = Counting  # type: ignore[misc]
        build_index(tmp_path / "index", str(pictures), predictor, unit=1, prune=True)

    for kill, code in ((True, -signal.SIGKILL), (False, 0)):  # the second prunes, and knows what the first has met
        process = multiprocessing.get_context("fork").Process(target=build, args=(kill,))
        process.start()
        assert exit_code(process) == code
    assert seen.read_text() == "0 1 2 2 3 "
    assert build_index(tmp_path / "index", str(pictures), predictor, prune=True).gone == 0
    build_index(tmp_path / "whole", str(pictures), predictor)
    index, whole = SearchIndex(tmp_path / "index"), SearchIndex(tmp_path / "whole")
    assert index.entries.get(range(5)) == whole.entries.get(range(5))
    assert np.allclose(index.vectors_of(range(4)), whole.vectors_of(range(4)), atol=1e-3)


class TestQueries:
    @pytest.fixture
    def index(self, pictures: Path, predictor: Predictor, tmp_path: Path) -> Iterator[SearchIndex]:
        build_index(tmp_path / "index", str(pictures), predictor)
        index = SearchIndex(tmp_path / "index")
        yield index
        index.close()

    def test_scores_are_cosines(self, index: SearchIndex, predictor: Predictor) -> None:
        query = Query(texts=["a red field", "a boat"], without=["people"]).vector(predictor)
        texts = predictor.encode_text(["a red field", "a boat", "people"]).double().numpy()
        expected = texts[:2].mean(axis=0) - 0.5 * texts[2]
        expected /= np.linalg.norm(expected)
        assert np.allclose(query, expected, atol=1e-6)
        hits = index.search(query, 4)
        rows = index.vectors_of([hit.entry.id for hit in hits]).astype(np.float64)
        assert np.allclose([hit.score for hit in hits], rows @ expected, atol=1e-6)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    def test_by_picture_and_more_like_this(self, index: SearchIndex, pictures: Path, predictor: Predictor) -> None:
        query = Query(images=[pictures / "green.png"]).vector(predictor)
        [hit] = index.search(query, 1)
        assert hit.entry.key == "green" and hit.score == pytest.approx(1, abs=1e-3)
        like = Query(vectors=index.vectors_of([hit.entry.id])).vector(predictor)
        assert keys(index.search(like, 4)) == keys(index.search(query, 4))

    def test_only_where_captions_have_the_words(self, index: SearchIndex, predictor: Predictor) -> None:
        query = Query(texts=["a field"]).vector(predictor)
        assert keys(index.search(query, 10, words="yellow")) == ["yellow"]
        assert sorted(keys(index.search(query, 10, words="fie* number"))) == sorted(COLOURS)
        assert index.search(query, 10, words="purple") == []
        assert keys(index.words("RED")) == ["red"]

    @pytest.mark.parametrize("words", ["", '"', "*", "-- ;"])
    def test_no_word(self, words: str, index: SearchIndex) -> None:
        with pytest.raises(InputError, match="hold no word"):
            index.words(words)

    @pytest.mark.parametrize("words", ["red OR NOT", 'red" OR "', "NEAR(red)", "text:red", "red'; DROP TABLE entries"])
    def test_words_are_no_syntax(self, words: str, index: SearchIndex) -> None:
        assert index.words(words) == []
        assert index.pictures() == 4

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "the query is empty: give words, a picture, or both"),
            ({"texts": ["  "]}, "the query is empty: say what to look for"),
            ({"texts": ["x" * 10_000]}, "the query has 10,000 characters, more than 2,000: shorten it"),
            ({"texts": ["a"], "against": 3}, "against 3 "),
        ],
    )
    def test_bad_queries(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Query(**given)

    def test_a_query_against_itself(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="the query cancels itself out"):
            Query(texts=["a cat"], without=["a cat"], against=1).vector(predictor)


class TestCommands:
    @pytest.fixture
    def index(self, pictures: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
        output = str(tmp_path / "photos.index")
        assert main(["index", "build", "--data", str(pictures), "--checkpoint", checkpoint, "--output", output]) == 0
        assert "4 pictures added (4 computed), 0 unchanged, 0 taken out" in capsys.readouterr().out
        return output

    def test_info(self, index: str, checkpoint: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["index", "info", index]) == 0
        printed = re.sub(r"[\s│]", "", capsys.readouterr().out)  # long paths go over several lines
        assert "pictures4" in printed and checkpoint in printed and str(pictures) in printed

    def test_found_as_json(self, index: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", index, "--image", str(pictures / "red.png"), "--limit", "2", "--json"]) == 0
        first, second = map(json.loads, capsys.readouterr().out.splitlines())
        assert first["key"] == "red" and first["size"] == [48, 40] and first["score"] > second["score"]
        assert first["captions"] == ["a red field, number 0"]

    def test_words_alone_need_no_model(self, index: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", index, "--caption", "green field"]) == 0
        assert "a green field, number 1" in capsys.readouterr().out

    def test_a_sheet(self, index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        sheet = tmp_path / "found.png"
        assert main(["search", index, "a field", "--and", "red", "--not", "blue", "--sheet", str(sheet)]) == 0
        with Image.open(sheet) as drawn:
            assert drawn.width > 400

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the query is empty: give words, a picture, or both"),
            (["--image", "pictures/red.txt"], "image 'pictures/red.txt' cannot be read"),
            (["--image", "nowhere.png"], "nowhere.png"),
            (["a cat", "--limit", "0"], "--limit 0 "),
            (["x" * 10_000], "the query has 10,000 characters"),
        ],
    )
    def test_bad_input(
        self, arguments: list[str], message: str, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        assert main(["search", index, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("name", "message"),
        [("gpu", "--device 'gpu' is no device"), ("cuda:99", "--device 'cuda:99' is not there: this machine has ")],
    )
    def test_devices(
        self, name: str, message: str, pictures: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ("--data", str(pictures), "--checkpoint", checkpoint, "--output", str(tmp_path / "x"), "--device", name)
        assert main(["index", "build", *given]) == 2
        assert message in capsys.readouterr().err

    def test_a_damaged_index(self, index: str, capsys: pytest.CaptureFixture[str]) -> None:
        (Path(index) / "entries.sqlite").write_bytes(b"no database, whatever its name" * 100)
        assert main(["search", index, "a cat"]) == 2
        assert "is damaged: file is not a database (entries.sqlite). Build it again" in capsys.readouterr().err

    def test_no_index(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", str(tmp_path), "a cat"]) == 2
        assert "is no index: build one with lightning-clip index build --output" in capsys.readouterr().err

    def test_an_index_being_written(
        self, index: str, pictures: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from lightning_clip.core.locks import only_writer

        with only_writer(index, "--output"):
            assert main(["index", "build", "--data", str(pictures), "--checkpoint", checkpoint, "--output", index]) == 2
        assert "is being written by process" in capsys.readouterr().err


def test_a_camera_card(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders without any text, what a system leaves behind, a picture twice; searched from another folder."""
    for number, place in enumerate(("2025", "2026", "2026/best")):
        folder = tmp_path / "DCIM" / place
        folder.mkdir(parents=True, exist_ok=True)
        draw(folder, f"IMG_{number:04d}", (60 * number, 90, 200), "")
        (folder / f"IMG_{number:04d}.txt").unlink()
        (folder / f"._IMG_{number:04d}.png").write_bytes(b"\0\5\26\7Mac OS X")
    for path in (tmp_path / "DCIM/2026").glob("*.png"):
        (tmp_path / "DCIM" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.ckpt").write_bytes(Path(checkpoint).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["index", "build", "--data", "DCIM", "--checkpoint", "model.ckpt", "--output", "photos.index"]) == 0
    assert "4 pictures added" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "DCIM")
    assert main(["search", "../photos.index", "a photo", "--json"]) == 0
    found = [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 3 and {name.rpartition("/")[2] for name in found} == {f"IMG_{number:04d}.png" for number in range(3)}


def test_more_names_than_answers(predictor: Predictor, tmp_path: Path) -> None:
    """A picture under many names does not push others out."""
    shown = [torch.full((3, 8, 8), 80 * number, dtype=torch.uint8) for number in range(3)]
    pairs = [Pair(shown[0], (), f"copy {number}") for number in range(30)] + [
        Pair(image, (), str(image[0, 0, 0])) for image in shown
    ]
    build_index(tmp_path / "index", Listed(pairs), predictor)
    index = SearchIndex(tmp_path / "index")
    hits = index.search(index.vectors_of([0])[0], 3)
    assert len(hits) == 3 and hits[0].entry.key == "copy 0"
