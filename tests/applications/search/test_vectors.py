"""Vectors: exact search against NumPy, the graph against exact search, and what killed writers leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_clip import InputError
from lightning_clip.applications.search.stores.files import Vectors


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def filled(folder: Path, rows: np.ndarray) -> Vectors:
    vectors = Vectors(folder, rows.shape[1], 0, write=True)
    vectors.append(rows)
    return vectors


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), dim=st.integers(1, 9), most=st.integers(1, 70), seed=st.integers(0, 9))
def test_exact_search(tmp_path_factory: pytest.TempPathFactory, count: int, dim: int, most: int, seed: int) -> None:
    rows = unit(count, dim, seed)
    vectors = filled(tmp_path_factory.mktemp("index"), rows)
    query = unit(1, dim, seed + 1)[0].astype(np.float32)
    places, scores = vectors.nearest(query, most)
    products = rows.astype(np.float64) @ query.astype(np.float64)
    assert len(places) == min(most, count)
    assert np.allclose(scores, np.sort(products)[::-1][:most], atol=1e-6)
    assert np.allclose(products[places], scores, atol=1e-6)


def test_of_equal_rows_the_earlier_comes_first(tmp_path: Path) -> None:
    rows = np.repeat(unit(2, 4), 3, axis=0)
    assert filled(tmp_path, rows).nearest(rows[0].astype(np.float32), 3)[0].tolist() == [0, 1, 2]


def test_a_graph_holds_what_the_tail_held(tmp_path: Path) -> None:
    """Of the same rows both find the same, and what is added behind the graph is found beside it."""
    pytest.importorskip("usearch")
    rows = unit(400, 16)
    vectors = filled(tmp_path, rows[:300])
    vectors.grow_graph()
    assert (vectors.in_graph, vectors.in_tail) == (300, 0)
    vectors.append(rows[300:])
    again = Vectors(tmp_path, 16, 400, write=True)
    assert (again.in_graph, again.in_tail) == (300, 100)
    assert np.allclose(again.rows([0, 399, 299, 300]), rows[[0, 399, 299, 300]].astype(np.float32), atol=1e-3)
    for query in unit(20, 16, seed=5).astype(np.float32):
        expected = np.argsort(-(rows.astype(np.float32) @ query), kind="stable")[:5]
        assert len(set(expected) & set(again.nearest(query, 5)[0].tolist())) >= 4
    again.grow_graph()
    assert (again.in_graph, again.in_tail) == (400, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.usearch"]
    assert again.nearest(rows[350].astype(np.float32), 1)[0].tolist() == [350]


def test_rows_of_a_killed_writer_are_cut_off(tmp_path: Path) -> None:
    """They are on the disk, but nobody has committed them."""
    rows = unit(5, 4)
    filled(tmp_path, rows)
    opened = Vectors(tmp_path, 4, 3, write=True)
    assert len(opened.tail()) == 3
    opened.append(rows[:1])
    assert np.array_equal(Vectors(tmp_path, 4, 4).tail()[3], rows[0])


def test_readers_take_nothing_from_a_writer(tmp_path: Path) -> None:
    """What is appended and not committed yet stays; what a graph takes up meanwhile is still read."""
    pytest.importorskip("usearch")
    rows = unit(6, 4)
    writer = filled(tmp_path, rows[:4])
    reader = Vectors(tmp_path, 4, 4)
    writer.append(rows[4:])  # not committed
    assert len(Vectors(tmp_path, 4, 4).tail()) == 4
    assert np.array_equal(writer.tail()[4:], rows[4:])
    writer.grow_graph()
    assert np.array_equal(reader.rows(range(4)), rows[:4].astype(np.float32))
    assert Vectors(tmp_path, 4, 4).count == 6  # counted before the graph took them up


def test_a_writer_killed_while_the_graph_took_up_the_tail(tmp_path: Path) -> None:
    """The graph has its name, and the old tail is still there."""
    pytest.importorskip("usearch")
    rows = unit(50, 8)
    vectors = filled(tmp_path, rows)
    old = (tmp_path / "tail-0.f16").read_bytes()
    vectors.grow_graph()
    (tmp_path / "tail-0.f16").write_bytes(old)
    opened = Vectors(tmp_path, 8, 50, write=True)
    assert (opened.in_graph, opened.in_tail) == (50, 0)
    assert not (tmp_path / "tail-0.f16").exists()


def test_lost_rows_are_an_error(tmp_path: Path) -> None:
    filled(tmp_path, unit(2, 4))
    with pytest.raises(InputError, match="is damaged: it has 2 vectors for 3 pictures. Build it again"):
        Vectors(tmp_path, 4, 3)


def test_a_damaged_graph_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    (tmp_path / "graph.usearch").write_bytes(b"no graph at all, whatever its name")
    with pytest.raises(InputError, match="is damaged: its graph cannot be read"):
        Vectors(tmp_path, 4, 0)


def test_among_some_rows(tmp_path: Path) -> None:
    rows = unit(30, 8)
    chosen = np.array([3, 7, 20])
    query = unit(1, 8, 9)[0].astype(np.float32)
    places, scores = filled(tmp_path, rows).nearest_of(chosen, query, 2)
    products = rows[chosen].astype(np.float32) @ query
    assert places.tolist() == chosen[np.argsort(-products)][:2].tolist()
    assert np.allclose(scores, np.sort(products)[::-1][:2], atol=1e-6)


def test_a_writer_killed_between_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph has the first stage, the tail the rest; the next writer takes up that alone."""
    pytest.importorskip("usearch")
    rows = unit(70, 8)
    vectors = filled(tmp_path, rows)
    commit, stages = Vectors._commit, []

    def killed(self: Vectors, *arguments: object) -> None:
        if stages:
            raise KeyboardInterrupt
        stages.append(arguments[1])
        commit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Vectors, "_commit", killed)
    with pytest.raises(KeyboardInterrupt):
        vectors.grow_graph(stage=30)
    monkeypatch.undo()
    assert stages == [30] and sorted(path.name for path in tmp_path.iterdir()) == ["graph.usearch", "tail-30.f16"]
    opened = Vectors(tmp_path, 8, 70, write=True)
    assert (opened.in_graph, opened.in_tail) == (30, 40)
    assert np.array_equal(opened.rows(range(70)), rows.astype(np.float32))
    opened.grow_graph(stage=25)
    assert (opened.in_graph, opened.in_tail) == (70, 0)
    assert np.array_equal(opened.rows(range(70)), rows.astype(np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.usearch"]


def test_a_killed_writer_that_had_written_the_next_tail(tmp_path: Path) -> None:
    """The graph is still the old one: that tail is of no use."""
    rows = unit(9, 4)
    filled(tmp_path, rows)
    (tmp_path / "tail-5.f16").write_bytes(rows[5:].tobytes())
    opened = Vectors(tmp_path, 4, 9, write=True)
    assert (opened.in_graph, opened.in_tail) == (0, 9) and not (tmp_path / "tail-5.f16").exists()
    assert np.array_equal(opened.tail(), rows)
