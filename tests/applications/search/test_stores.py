"""Every store gives the answers of exact search in float64, keeps what is committed, and says in one line what is wrong."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_module, write_folder

from lightning_clip import InputError
from lightning_clip.applications.search import SearchIndex, build_index
from lightning_clip.applications.search.stores import Home, VectorStore, open_store, settled, vector_stores
from lightning_clip.applications.search.stores import lance as lance_room
from lightning_clip.applications.search.stores import qdrant as qdrant_room
from lightning_clip.cli import main
from lightning_clip.model.predictor import Predictor

STORES = ["files", "exact", "usearch", "lancedb", "qdrant", "real qdrant"]
DIM, COUNT = 24, 300
URL = "LIGHTNING_CLIP_QDRANT_URL"  # of a real server, such as http://localhost:6333


def unit(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    pytest.importorskip("qdrant_client")
    from applications.search.qdrant_server import qdrant

    with qdrant() as served:
        yield served


@pytest.fixture(params=STORES)
def spec(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a store with nothing in it."""
    if request.param == "real qdrant":
        if not (url := os.environ.get(URL)):
            pytest.skip(f"{URL} names no server")
        from qdrant_client import QdrantClient

        name = f"test-{uuid.uuid4().hex}"
        yield f"qdrant:{url}/{name}"
        QdrantClient(url=url).delete_collection(name)
    elif request.param == "qdrant":
        yield f"qdrant:{request.getfixturevalue('server').url}/{uuid.uuid4().hex}"
    else:
        pytest.importorskip({"lancedb": "lancedb", "usearch": "usearch"}.get(request.param, "numpy"))
        yield request.param


def filled(spec: str, folder: Path, rows: np.ndarray) -> VectorStore:
    store = open_store(spec, Home(folder, rows.shape[1], "mine", "model"), 0, write=True)
    store.append(rows[:200])
    store.append(rows[200:])
    store.settle()
    return store


class TestEach:
    def test_answers_of_exact_search(self, spec: str, tmp_path: Path) -> None:
        """Recall is 1 and the order that of float64, among all rows and among some."""
        rows = unit(COUNT)
        some = np.flatnonzero(np.random.default_rng(3).random(COUNT) < 0.3)
        store = filled(spec, tmp_path, rows)
        for query in unit(10, seed=5).astype(np.float32):
            products = rows.astype(np.float64) @ query.astype(np.float64)
            for most in (1, 10, COUNT + 5):
                places, scores = store.nearest(query, most)
                assert places.tolist() == np.argsort(-products)[:most].tolist(), most
                assert np.allclose(scores, products[places], atol=1e-3 if spec == "usearch" else 1e-6)
            places, scores = store.nearest_of(some, query, 7)
            assert places.tolist() == some[np.argsort(-products[some])][:7].tolist()
            assert np.allclose(scores, products[places], atol=1e-6)
        assert len(store.nearest_of(some[:0], query, 7)[0]) == 0
        store.close()

    def test_rows_as_they_were_given(self, spec: str, tmp_path: Path) -> None:
        rows = unit(COUNT)
        store = filled(spec, tmp_path, rows)
        asked = [299, 0, 7, 7, 200]
        assert np.array_equal(store.rows(asked), rows[asked].astype(np.float32))
        assert store.rows([]).shape == (0, DIM)
        assert f"{COUNT}" in store.about() or "searched" in store.about()
        store.close()

    def test_equal_rows(self, spec: str, tmp_path: Path) -> None:
        """The earlier row comes first."""
        rows = np.repeat(unit(3), 4, axis=0)
        store = filled(spec, tmp_path, rows)
        assert store.nearest(rows[4].astype(np.float32), 4)[0].tolist() == [4, 5, 6, 7]
        store.close()

    def test_what_was_not_committed(self, spec: str, tmp_path: Path) -> None:
        """A reader does not find it, the next writer takes it out, and its places are given again."""
        rows, home = unit(COUNT), Home(tmp_path, DIM, "mine", "model")
        writer = open_store(spec, home, 0, write=True)
        writer.append(rows[:50])
        writer.append(rows[50:120])
        reader = open_store(spec, home, 50)
        assert sorted(reader.nearest(rows[60].astype(np.float32), 50)[0].tolist()) == list(range(50))
        reader.close()
        writer.cut(110)
        writer.close()
        again = open_store(spec, home, 50, write=True)
        again.append(rows[200:230])
        assert again.count == 80
        assert again.nearest(rows[210].astype(np.float32), 1)[0].tolist() == [60]
        assert sorted(again.nearest(rows[60].astype(np.float32), 500)[0].tolist()) == list(range(80))
        again.close()

    def test_lost_rows(self, spec: str, tmp_path: Path) -> None:
        filled(spec, tmp_path, unit(40)).close()
        with pytest.raises(InputError, match="is damaged: .*40 vectors for 41 pictures. Build it again"):
            open_store(spec, Home(tmp_path, DIM, "mine", "model"), 41)

    @pytest.mark.parametrize(
        ("home", "message"),
        [
            (Home(Path(), DIM, "theirs", "model"), "holds the vectors of another index: give another --store"),
            (Home(Path(), DIM, "theirs", "other"), "holds the vectors of another model: give another --store"),
            (Home(Path(), 8, "mine", "model"), "holds vectors of width 24, the model gives 8: give another --store"),
        ],
    )
    @pytest.mark.parametrize("write", [False, True])
    def test_somebody_elses(self, home: Home, message: str, write: bool, spec: str, tmp_path: Path) -> None:
        if ":" not in spec and spec != "lancedb":
            pytest.skip("files stand in the index's own folder")
        filled(spec, tmp_path, unit(5)).close()
        with pytest.raises(InputError, match=message):
            open_store(spec, home._replace(folder=tmp_path), 5, write=write)
        store = open_store(spec, Home(tmp_path, DIM, "mine", "model"), 5)  # untouched
        assert np.array_equal(store.rows(range(5)), unit(5).astype(np.float32))
        store.close()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    predictor: Predictor = small_module().eval().predictor
    return predictor


class TestIndexes:
    def test_built_added_to_and_pruned(self, spec: str, predictor: Predictor, tmp_path: Path) -> None:
        """As an index of files is: same entries, same hits, also where captions have a word."""
        folder = tmp_path / "photos"
        write_folder(folder, count=12)
        places = {"mine": spec, "plain": "exact"}
        for name, store in places.items():
            build_index(tmp_path / name, str(folder), predictor, name="photos", store=store, unit=5)
        (folder / "3.jpg").unlink()
        (folder / "new.jpg").write_bytes((folder / "5.jpg").read_bytes())
        table = folder / "captions.jsonl"
        kept = [line for line in table.read_text().splitlines() if "3.jpg" not in line]
        table.write_text("\n".join([*kept, kept[0].replace(kept[0].split('"')[3], "new.jpg")]))
        for name in places:
            built = build_index(tmp_path / name, str(folder), predictor, name="photos", prune=True, unit=5)
            assert (built.pictures, built.added, built.computed, built.gone) == (12, 1, 0, 1)
        mine, plain = SearchIndex(tmp_path / "mine"), SearchIndex(tmp_path / "plain")
        assert mine.store == settled(spec) and mine.pictures() == plain.pictures() == 12
        assert mine.entries.get(range(13)) == plain.entries.get(range(13))
        assert np.array_equal(mine.vectors_of([0, 12]), plain.vectors_of([0, 12]))
        for query in plain.vectors_of([1, 8]):
            for words in ("", "picture"):
                found, expected = mine.search(query, 5, words), plain.search(query, 5, words)
                assert [hit.entry for hit in found] == [hit.entry for hit in expected] and len(found) == 5
                assert np.allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-3)
        mine.close()
        plain.close()

    def test_taken_back_where_a_unit_fails(
        self, spec: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_folder(tmp_path / "photos", count=6)
        index = tmp_path / "index"
        build_index(index, str(tmp_path / "photos"), predictor, store=spec)
        rows = unit(3, predictor.model.embed_dim)
        with (  # noqa: PT012 - all of them are meant
            pytest.raises(KeyboardInterrupt),
            SearchIndex.opened_for_writing(index, predictor, predictor) as opened,
            opened.adding(),
        ):
            opened.vectors.append(rows)
            raise KeyboardInterrupt
        again = SearchIndex(index)
        assert again.vectors.count == 6 and len(again.vectors.nearest(rows[0].astype(np.float32), 50)[0]) == 6
        again.close()

    def test_another_store(self, server: Any, predictor: Predictor, tmp_path: Path) -> None:
        """Refused, but among the kinds of files; an index whose first build found no server has no store yet."""
        write_folder(tmp_path / "photos", count=6)
        index, data = tmp_path / "index", str(tmp_path / "photos")
        with pytest.raises(InputError, match="cannot be reached"):
            build_index(index, data, predictor, store=f"qdrant:http://127.0.0.1:{closed_port()}/photos")
        build_index(index, data, predictor, store="exact")
        build_index(index, data, predictor, store="files")
        assert SearchIndex(index).store == "files"
        with pytest.raises(InputError, match="keeps its vectors in 'files', not in 'lancedb': omit --store, or build another"):
            build_index(index, data, predictor, store="lancedb")
        with pytest.raises(InputError, match=r"leave .*elsewhere' out of --store"):
            build_index(tmp_path / "other", data, predictor, store=f"exact:{tmp_path}/elsewhere")


def closed_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class TestMistakes:
    @pytest.mark.parametrize(
        ("store", "message"),
        [
            ("qdrnt:http://localhost/x", "qdrant"),
            ("qdrant", "--store 'qdrant:' names no server: give such as qdrant:http://localhost:6333/photos"),
            ("qdrant:localhost:6333/photos", "names no server"),
            ("qdrant:ftp://localhost/photos", "names no server"),
            ("qdrant:http://localhost:nothing/photos", "names no server"),
            ("qdrant:http://localhost:6333", "names no collection: give such as"),
            ("qdrant:http://localhost:6333/", "names no collection: give such as"),
            ("lancedb:nonsense://bucket/x", "LanceDB table 'vectors' in nonsense://bucket/x cannot be used: "),
            ("lancedb:db://cloud", "cannot be used: "),
        ],
    )
    def test_addresses(
        self, store: str, message: str, tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_folder(tmp_path / "photos", count=2)
        output = str(tmp_path / "x")
        given = ["--data", str(tmp_path / "photos"), "--checkpoint", checkpoint, "--output", output, "--store", store]
        assert main(["index", "build", *given]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1 and ".rs:" not in error

    @pytest.mark.parametrize(
        "store", ["qdrant:http://me:s3cret@localhost/x", "lancedb:s3://me:s3cret@bucket/x", "x:http://a?k=s3cret"]
    )
    def test_secrets_are_not_kept_or_shown(self, store: str) -> None:
        with pytest.raises(InputError, match="holds a user or password") as caught:
            settled(store)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("library", "store", "message"),
        [
            ("lancedb", "lancedb", r'needs LanceDB: pip install "lightning-clip\[lancedb\]"'),
            ("qdrant_client", "qdrant:http://localhost/x", r'needs its client: pip install "lightning-clip\[qdrant\]"'),
            ("usearch", "usearch", r'needs usearch: pip install "lightning-clip\[search\]"'),
        ],
    )
    def test_missing_libraries(
        self, library: str, store: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, library, None)
        with pytest.raises(InputError, match=message):
            open_store(store, Home(tmp_path, 4), 0, write=True)

    @pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
    def test_a_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("qdrant_client")
        from applications.search.qdrant_server import qdrant

        home = Home(tmp_path, 4, "mine", "model")
        with qdrant(key="right") as server:
            store = f"qdrant:{server.url}/x"  # type: ignore[attr-defined]
            for wrong in (None, "wrong"):
                if wrong:
                    monkeypatch.setenv("QDRANT_API_KEY", wrong)
                with pytest.raises(InputError, match=r"asks for a key \(401\): set QDRANT_API_KEY"):
                    open_store(store, home, 0, write=True)
            monkeypatch.setenv("QDRANT_API_KEY", "right")
            open_store(store, home, 0, write=True).close()

    def test_a_collection_that_is_gone(self, server: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Qdrant collection 'nowhere' at .* is not there any more: build the index again"):
            open_store(f"qdrant:{server.url}/nowhere", Home(tmp_path, 4), 3)

    def test_a_server_that_does_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("qdrant_client")
        monkeypatch.setattr(qdrant_room, "_TIMEOUT", 1)
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            opened.listen()
            store = f"qdrant:http://127.0.0.1:{opened.getsockname()[1]}/x"
            with pytest.raises(InputError, match="cannot be reached: no answer within 1 seconds. Is the server running"):
                open_store(store, Home(tmp_path, 4), 0)

    def test_another_kind_of_server(self, tmp_path: Path) -> None:
        """One that answers in HTML."""
        pytest.importorskip("qdrant_client")
        from http.server import BaseHTTPRequestHandler, HTTPServer
        from threading import Thread

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>hello</html>")

            def log_message(self, *arguments: Any) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Page) as page:
            Thread(target=page.serve_forever, args=(0.05,), daemon=True).start()
            with pytest.raises(InputError, match="does not answer as a Qdrant server: is") as caught:
                open_store(f"qdrant:http://127.0.0.1:{page.server_port}/x", Home(tmp_path, 4), 0)
            page.shutdown()
        assert len(str(caught.value).splitlines()) == 1


def test_names_are_a_registry() -> None:
    """A file of a user's may add one."""
    assert {"files", "exact", "usearch", "lancedb", "qdrant"} <= set(vector_stores.names())


@pytest.mark.parametrize("count", [pytest.param(3000, marks=pytest.mark.slow)])
def test_the_index_of_a_large_table(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found through codes, then by the vectors themselves; what is added behind the index is found beside it."""
    pytest.importorskip("lancedb")
    monkeypatch.setattr(lance_room, "_INDEX_FROM", 1000)
    rows = unit(count, 32)
    home = Home(tmp_path, 32, "mine", "model")
    store = open_store("lancedb", home, 0, write=True)
    store.append(rows[: count - 100])
    store.settle()
    assert "by its index" in store.about()
    store.append(rows[count - 100 :])
    found = 0
    for query in unit(20, 32, seed=5).astype(np.float32):
        expected = np.argsort(-(rows.astype(np.float64) @ query))[:10]
        found += len(set(expected.tolist()) & set(store.nearest(query, 10)[0].tolist()))
    assert found >= 190
    store.settle()
    assert store.nearest(rows[-1].astype(np.float32), 1)[0].tolist() == [count - 1]
