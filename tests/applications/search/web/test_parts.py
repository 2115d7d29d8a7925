"""Maps, groups of what is alike, and an index that changes while it is read."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_clip import InputError
from lightning_clip.applications.search import SearchIndex, build_index
from lightning_clip.applications.search.web import Collection
from lightning_clip.applications.search.web.alike import alike
from lightning_clip.applications.search.web.projection import mean_colour, project
from lightning_clip.core.locks import only_writer, writer_of
from lightning_clip.model.predictor import Predictor


def reader(rows: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: rows[start:stop]


class TestAlike:
    def made(self, groups: int = 400, seed: int = 0) -> np.ndarray:
        """Unit vectors; of each three, the second is near the first, the third is not."""
        random = np.random.default_rng(seed)
        rows = random.standard_normal((groups * 3, 64)).astype(np.float32)
        rows[1::3] = rows[::3] + 0.05 * rows[1::3]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def test_equals_plain_loops(self) -> None:
        """Over more rows than are compared at a time."""
        rows = self.made()
        expected: dict[int, list[int]] = {}
        taken: set[int] = set()
        for first in range(len(rows)):
            if first not in taken:
                near = [at for at in range(first + 1, len(rows)) if at not in taken and rows[first] @ rows[at] >= 0.95]
                taken.update(near)
                if near:
                    expected[first] = near
        found = alike(len(rows), reader(rows), 0.95)
        assert {first: [place for place, _ in others] for first, others in found} == expected and len(expected) == 400
        for first, others in found:
            assert all(score == pytest.approx(rows[first] @ rows[place], abs=1e-5) for place, score in others)

    def test_a_window_finds_neighbours(self) -> None:
        rows = self.made()
        assert alike(len(rows), reader(rows), 0.95, all_pairs=100) == alike(len(rows), reader(rows), 0.95)
        far = np.concatenate([rows[:1], rows[2::3], rows[:1]])  # the last repeats the first, and stands far from it
        assert alike(len(far), reader(far), 0.95, all_pairs=100) == []
        assert alike(len(far), reader(far), 0.95, all_pairs=100, copies=[[0, len(far) - 1]]) == [(0, [(len(far) - 1, 1.0)])]

    def test_a_chain_is_no_group(self) -> None:
        """Each is near the next, the first is not near the third."""
        angles = np.deg2rad([0, 20, 40])
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        assert [(first, [place for place, _ in others]) for first, others in alike(3, reader(rows), 0.9)] == [(0, [1])]

    def test_a_copy_goes_with_its_picture(self) -> None:
        """1 and 3 are the same, and 1 is near 0."""
        angles = np.deg2rad([0, 5, 90, 5])
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        [(first, others)] = alike(4, reader(rows), 0.99, copies=[[1, 3]])
        assert first == 0 and [place for place, _ in others] == [1, 3]
        assert others[1][1] == pytest.approx(np.cos(np.deg2rad(5)), abs=1e-5)

    def test_nothing(self) -> None:
        assert alike(0, reader(np.zeros((0, 4), np.float32)), 0.9) == []


class TestProjection:
    def test_few_pictures(self) -> None:
        assert project(np.zeros((0, 8), np.float32)).points.shape == (0, 2)
        assert project(np.ones((1, 8), np.float32)).points.tolist() == [[0, 0]]
        assert project(np.ones((3, 1), np.float32)).points.shape == (3, 2)

    def test_it_does_not_turn_over(self) -> None:
        """The same pictures in another order lie where they lay."""
        rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
        order = np.random.default_rng(1).permutation(50)
        assert np.allclose(project(rows).points[order], project(rows[order]).points, atol=1e-5)

    @pytest.mark.parametrize("content", [b"", b"no picture"])
    def test_colour_of_nothing(self, content: bytes) -> None:
        assert mean_colour(content) == (128, 128, 128)


class TestWhileItIsWritten:
    @pytest.fixture
    def own(self, index: Path, pictures: Path, tmp_path: Path) -> Path:
        """A copy of the index that may be changed."""
        shutil.copytree(index, tmp_path / "own.index")
        return tmp_path / "own.index"

    def test_what_is_added_is_found(self, own: Path, pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
        collection = Collection(own, predictor)
        assert collection.about()["pictures"] == 6 and collection.surveys.map(100)["of"] == 6
        (tmp_path / "more").mkdir()
        shutil.copy(pictures / "red.png", tmp_path / "more/again.png")
        (tmp_path / "more/again.txt").write_text("red again")
        build_index(own, str(tmp_path / "more"), predictor)
        assert collection.about()["pictures"] == 7 and collection.surveys.map(100)["of"] == 7
        assert [hit.entry.key for hit in collection.search(caption="again")] == ["again"]
        build_index(own, str(tmp_path / "more"), predictor)  # changes nothing
        assert collection.about()["pictures"] == 7

    def test_how_far_it_is(self, own: Path, predictor: Predictor) -> None:
        collection = Collection(own, predictor)
        assert collection.about()["building"] is None
        with only_writer(own, "--output"), SearchIndex.opened_for_writing(own, predictor, predictor) as writing:
            entries = writing.entries
            entries.set_fact("building", {"source": 1, "fingerprint": "f", "unit": 512, "pictures": 1200})
            assert collection.about()["building"] == {"done": 0, "of": 1200}
            for unit, done in enumerate((512, 1024, 1200)):
                entries.finish_unit(1, "f", unit)
                assert collection.about()["building"] == {"done": done, "of": 1200}
        assert collection.about()["building"] is None

    def test_a_build_notes_where_it_is(
        self, own: Path, pictures: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lightning_clip.applications.search import build

        seen = []

        class Watched(build.Looking):
            def __call__(self, number: int, start: int, stop: int) -> list[build.Looked]:
                seen.append(Collection(own, predictor).about()["building"])
                return super().__call__(number, start, stop)

        monkeypatch.setattr(build, "Looking", Watched)
        build_index(own, str(pictures), predictor, unit=2, name="other")
        assert seen == [{"done": done, "of": 6} for done in (0, 2, 4)]
        assert SearchIndex(own).entries.progress() == (0, 0)

    def test_another_model(self, index: Path, predictor: Predictor) -> None:
        from small import small_module

        module = small_module()
        module.configure_model()
        with pytest.raises(InputError, match="was built with another model .*: search it with that one, or build it again"):
            Collection(index, module.predictor)

    def test_just_begun(self, tmp_path: Path) -> None:
        from lightning_clip.applications.search.entries import Entries

        Entries(tmp_path / "entries.sqlite", write=True).close()
        with pytest.raises(InputError, match="has only just been begun: try again when its first pictures are in it"):
            SearchIndex(tmp_path)


def test_who_is_writing(tmp_path: Path) -> None:
    place = tmp_path / "photos.index"
    assert writer_of(place) == ""
    with only_writer(place, "--output"):
        assert writer_of(place) == f"process {os.getpid()} on {socket.gethostname()}"
    assert writer_of(place) == ""


@pytest.mark.parametrize(
    ("holder", "expected"),
    [("process 4194999 on {here}", ""), ("process 1 on elsewhere", "process 1 on elsewhere")],
)
def test_a_writer_that_was_killed(holder: str, expected: str, tmp_path: Path) -> None:
    """Its files are still there."""
    (tmp_path / ".photos.index.lock").touch()
    (tmp_path / ".photos.index.lock.by").write_text(holder.replace("{here}", socket.gethostname()))
    assert writer_of(tmp_path / "photos.index") == expected
