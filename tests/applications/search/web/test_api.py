"""The REST API: every answer against the index and the model themselves, every mistake in one line."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lightning_clip import InputError
from lightning_clip.applications.relevance import relevance
from lightning_clip.applications.search import Query, SearchIndex
from lightning_clip.applications.search.web import Collection
from lightning_clip.applications.search.web.openapi import document
from lightning_clip.applications.search.web.operations import OPERATIONS
from lightning_clip.applications.search.web.schema import check, fields
from lightning_clip.data.decoding import decode
from lightning_clip.model.predictor import Predictor


def keys(answer: Any) -> list[str]:
    return [hit["key"] for hit in answer.json()["hits"]]


def number_of(client: TestClient, key: str) -> int:
    return next(one["id"] for one in client.get("/api/pictures").json()["pictures"] if one["key"] == key)


class TestWhatIsThere:
    def test_about(self, client: TestClient, checkpoint: str) -> None:
        expected = {"name": "photos.index", "pictures": 6, "width": 16, "model": checkpoint, "reads_texts": True}
        assert client.get("/api/index").json() == {**expected, "building": None, "upload_limit": 100_000}

    def test_newest_first_each_once(self, client: TestClient, index: Path) -> None:
        found = client.get("/api/pictures?limit=3").json()["pictures"]
        rest = client.get(f"/api/pictures?before={found[-1]['id']}").json()["pictures"]
        assert [one["key"] for one in found + rest] == ["yellow", "red", "grey", "green", "blue"]
        [entry] = SearchIndex(index).entries.get([found[0]["id"]])
        assert (found[0]["place"], found[0]["captions"]) == (entry.place, list(entry.captions))
        assert (found[0]["width"], found[0]["height"]) == (48, 40)

    def test_one_picture_and_its_thumbnail(self, client: TestClient) -> None:
        found = client.get("/api/pictures/0").json()
        answer = client.get(found["thumbnail"])
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as small:
            assert small.size == (48, 40)

    @pytest.mark.parametrize("path", ["/api/pictures/99", "/api/pictures/99/thumbnail"])
    def test_no_such_picture(self, path: str, client: TestClient) -> None:
        answer = client.get(path)
        assert answer.status_code == 404 and "has no picture 99" in answer.json()["error"]

    @pytest.mark.parametrize(
        "path",
        [
            "/api/pictures/..%2f..%2fetc%2fpasswd/thumbnail",
            "/static/..%2f..%2f..%2fapp.py",
            "/static/%2e%2e/app.py",
            "/etc/passwd",
        ],
    )
    def test_nothing_outside_the_index(self, path: str, client: TestClient) -> None:
        answer = client.get(path)
        assert answer.status_code in (400, 404) and set(answer.json()) == {"error"}


class TestSearch:
    def test_by_words(self, client: TestClient, index: Path, predictor: Predictor) -> None:
        answer = client.post("/api/search", json={"texts": ["a red field"], "without": ["a boat"], "limit": 3})
        expected = SearchIndex(index).search(Query(texts=["a red field"], without=["a boat"]).vector(predictor), 3)
        assert [(hit["id"], hit["score"]) for hit in answer.json()["hits"]] == [
            (hit.entry.id, pytest.approx(hit.score, abs=1e-3)) for hit in expected
        ]

    def test_minus_words_with_their_weight(self, client: TestClient, index: Path, predictor: Predictor) -> None:
        answer = client.post("/api/search", json={"texts": ["a cat"], "without": ["red"], "against": 1.5, "limit": 5})
        expected = SearchIndex(index).search(Query(texts=["a cat"], without=["red"], against=1.5).vector(predictor), 5)
        assert keys(answer) == [hit.entry.key for hit in expected]

    def test_by_a_picture_from_outside(self, client: TestClient, pictures: Path) -> None:
        vector = client.post("/api/encode", content=(pictures / "green.png").read_bytes()).json()["vector"]
        [hit] = client.post("/api/search", json={"vectors": [vector], "limit": 1}).json()["hits"]
        assert hit["key"] == "green" and hit["score"] == pytest.approx(1, abs=1e-3)

    def test_more_like_this_without_itself(self, client: TestClient, index: Path, predictor: Predictor) -> None:
        """Neither the picture nor its copy under another name."""
        blue = number_of(client, "blue")
        stored = SearchIndex(index)
        expected = [hit.entry.key for hit in stored.search(stored.vectors_of([blue])[0], 10) if hit.entry.key != "blue"]
        answer = client.post("/api/search", json={"like": [blue], "limit": 10})
        assert keys(answer) == expected and len(expected) == 4
        assert len(keys(client.post("/api/search", json={"like": [blue], "limit": 2}))) == 2

    def test_captions(self, client: TestClient) -> None:
        assert keys(client.post("/api/search", json={"caption": "yell*"})) == ["yellow"]
        assert keys(client.post("/api/search", json={"texts": ["a"], "caption": "green field"})) == ["green"]
        assert keys(client.post("/api/search", json={"caption": "purple"})) == []

    def test_captions_as_they_are(self, client: TestClient) -> None:
        [hit] = client.post("/api/search", json={"caption": "bold"}).json()["hits"]
        assert hit["captions"] == ['<img src=x onerror="document.title=1"> & <b>bold</b>']

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "the query is empty: give words, a picture, or both"),
            ({"texts": ["  "]}, "the query is empty: say what to look for"),
            ({"texts": ["x" * 10_000]}, "the query has 10,000 characters, more than 2,000: shorten it"),
            ({"caption": "x" * 10_000}, "caption has 10,000 characters, more than 2,000: shorten it"),
            ({"caption": '"'}, "hold no word"),
            ({"like": [99]}, "has no picture 99"),
            ({"vectors": [[1.0, 2.0]]}, "a vector must be 16 finite numbers"),
            ({"vectors": [[0.0] * 16]}, "a vector must be 16 finite numbers, not all 0"),
            ({"texts": "a cat"}, "texts must be a list, not 'a cat'"),
            ({"texts": [1]}, r"texts[0] must be a text, not 1"),
            ({"texts": ["a"], "limit": 0}, "limit 0 must be from 1 to 1000"),
            ({"texts": ["a"] * 51}, "texts has 51 items, and must have 0 to 50"),
            ({"words": ["a"]}, "the body has no 'words': it has texts, without"),
            ({"texts": ["a cat"], "without": ["a cat"], "against": 1}, "the query cancels itself out"),
            ([], "the body must be an object"),
        ],
    )
    def test_bad_queries(self, body: Any, message: str, client: TestClient) -> None:
        answer = client.post("/api/search", json=body)
        assert answer.status_code == 400 and message in answer.json()["error"]
        assert len(answer.json()["error"].splitlines()) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "the body is no JSON"),
            (b"[" * 100_000, "the body is no JSON"),
            (b"\xff", "the body is no JSON"),
            (json.dumps({"vectors": [[float("nan")] * 16]}).encode(), "vectors[0][0] must be a finite number, not nan"),
            (json.dumps({"vectors": [[1e39] * 16]}).encode(), "a vector must be 16 finite numbers"),
            (b'{"texts": ["a"], "against": Infinity}', "against must be a finite number, not inf"),
            (b'{"texts": ["a"], "against": 1' + b"0" * 400 + b"}", "against must be a finite number"),
        ],
    )
    def test_bad_bodies(self, content: bytes, message: str, client: TestClient) -> None:
        answer = client.post("/api/search", content=content)
        assert answer.status_code == 400 and message in answer.json()["error"]


class TestUploads:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "this is no picture that can be read (empty file)"),
            (b"hello", "this is no picture that can be read (not an image): give a JPEG"),
            (b"\xff\xd8\xff\xe0" + b"0" * 50, "this is no picture that can be read"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is no picture that can be read (not an image)"),
        ],
    )
    def test_no_picture(self, content: bytes, message: str, client: TestClient) -> None:
        answer = client.post("/api/encode", content=content)
        assert answer.status_code == 400 and message in answer.json()["error"]

    def test_a_picture_that_unpacks_to_gigabytes(self, client: TestClient) -> None:
        buffer = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
        assert buffer.tell() < 100_000
        answer = client.post("/api/encode", content=buffer.getvalue())
        assert answer.status_code == 400 and "image too large" in answer.json()["error"]

    def test_too_many_bytes(self, client: TestClient) -> None:
        def parts() -> Any:  # without a length
            for _ in range(11):
                yield b"0" * 10_000

        for content in (b"0" * 100_001, parts()):
            answer = client.post("/api/encode", content=content)
            assert answer.status_code == 413 and "the upload has more than 0 MB: make the picture smaller" in answer.text

    def test_vectors_are_the_models(self, client: TestClient, pictures: Path, predictor: Predictor) -> None:
        answer = client.post("/api/encode", content=(pictures / "red.png").read_bytes())
        expected = predictor.encode_image([pictures / "red.png"])[0].numpy()
        assert np.allclose(answer.json()["vector"], expected, atol=1e-6)


class TestLabels:
    def test_probabilities_are_the_models(self, client: TestClient, pictures: Path, predictor: Predictor) -> None:
        labels, prompt = ["red", "green", "a boat"], "a picture of {}"
        expected = predictor.similarity(labels, [prompt])([pictures / "red.png"]).softmax(dim=-1)[0].tolist()
        vector = client.post("/api/encode", content=(pictures / "red.png").read_bytes()).json()["vector"]
        for given in ({"vector": vector}, {"picture": number_of(client, "red")}):
            found = client.post("/api/classify", json={"labels": labels, "prompt": prompt, **given}).json()["labels"]
            assert [one["label"] for one in found] == labels
            assert [one["probability"] for one in found] == pytest.approx(expected, abs=2e-3)

    def test_labels_are_encoded_once(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[list[str]] = []
        encode = Predictor.encode_text

        def counted(self: Predictor, texts: Any, batch_size: int = 256) -> Any:
            asked.append(list(texts))
            return encode(self, texts, batch_size)

        monkeypatch.setattr(Predictor, "encode_text", counted)
        for labels in (["one", "two"], ["one", "two", "three"], ["three", "one"]):
            answer = client.post("/api/classify", json={"labels": labels, "picture": 0, "prompt": "{}"}).json()["labels"]
            assert sum(one["probability"] for one in answer) == pytest.approx(1, abs=1e-4)
        assert asked == [["one", "two"], ["three"]]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"labels": ["cat", " "], "picture": 0}, "labels name 1: give at least two"),
            ({"labels": ["cat", "cat "], "picture": 0}, "label 'cat' stands there twice"),
            ({"labels": ["cat", "dog"]}, "no picture: give the id of one as 'picture'"),
            ({"labels": ["cat", "dog"], "picture": 0, "prompt": "a photo"}, "a photo"),
            ({"labels": ["cat", "x" * 501], "picture": 0}, r"labels[1] has 501 characters"),
            ({"picture": 0}, "the body needs 'labels': at least two names, each once"),
        ],
    )
    def test_bad_labels(self, body: Any, message: str, client: TestClient) -> None:
        answer = client.post("/api/classify", json=body)
        assert answer.status_code == 400 and message in answer.json()["error"]

    def test_labels_of_no_picture(self, client: TestClient) -> None:
        assert client.post("/api/classify", json={"labels": ["a", "b"], "picture": 99}).status_code == 404


class TestWhereItLooks:
    def test_a_lit_picture(self, client: TestClient, predictor: Predictor) -> None:
        """Brightest where the model's own map is largest."""
        answer = client.get("/api/pictures/0/relevance", params={"text": "a red field"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as shown:
            assert shown.size == (448, 448)
            brightness = np.asarray(shown.convert("RGB")).astype(float).sum(axis=2)
        small = client.get("/api/pictures/0/thumbnail").content
        grid = relevance(predictor, decode(small), "a red field").grids[0]
        row, column = divmod(int(grid.argmax()), grid.shape[1])
        step = 448 // grid.shape[0]
        places = brightness.reshape(grid.shape[0], step, grid.shape[1], step).mean(axis=(1, 3))
        assert divmod(int(places.argmax()), grid.shape[1]) == (row, column)

    @pytest.mark.parametrize(
        ("query", "status", "message"),
        [
            ("", 400, "the address needs 'text': what to look for in it"),
            ("?text=%20", 400, "must be words: give at least one text"),
            ("?text=" + "x" * 2001, 400, "text has 2,001 characters, more than 2,000: shorten it"),
        ],
    )
    def test_bad_texts(self, query: str, status: int, message: str, client: TestClient) -> None:
        answer = client.get(f"/api/pictures/0/relevance{query}")
        assert answer.status_code == status and message in answer.json()["error"]

    def test_no_such_picture(self, client: TestClient) -> None:
        assert client.get("/api/pictures/99/relevance?text=a").status_code == 404


class TestTheWhole:
    def test_a_map(self, client: TestClient, index: Path) -> None:
        found = client.get("/api/map").json()
        assert found["of"] == 6 and [point[0] for point in found["points"]] == list(range(6))
        features = SearchIndex(index).vectors_of(range(6)).astype(np.float64)
        centred = features - features.mean(axis=0)
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        expected = centred @ directions[:2].T
        expected /= np.abs(expected).max()
        assert np.allclose(np.abs([point[1:3] for point in found["points"]]), np.abs(expected), atol=1e-3)
        assert found["explained"] == pytest.approx((values[:2] ** 2 / (values**2).sum()).tolist(), abs=1e-3)
        red = next(point for point in found["points"] if point[0] == number_of(client, "red"))
        assert red[3] > 200 and red[4] < 80 and red[5] < 80

    def test_part_of_a_map(self, client: TestClient) -> None:
        found = client.get("/api/map?points=2").json()
        assert [point[0] for point in found["points"]] == [0, 5] and found["of"] == 6

    def test_duplicates(self, client: TestClient) -> None:
        found = client.get("/api/duplicates?threshold=1").json()
        assert [[one["key"] for one in group] for group in found["groups"]] == [["blue", "copy"]]
        assert (found["count"], found["repeated"], found["all_pairs"]) == (1, 1, True)
        score = found["groups"][0][1]["score"]
        near = client.get("/api/duplicates?threshold=0.5").json()
        assert score == 1 and near["repeated"] > 1 and all(one["score"] >= 0.5 for group in near["groups"] for one in group)


class TestManyAtOnce:
    def test_fifty_queries_are_answered_as_one_by_one(self, collection: Collection) -> None:
        queries = [{"texts": [f"a field number {number}"], "most": 3} for number in range(40)]
        queries += [{"like": [number % 5], "most": 3} for number in range(10)]
        alone = [[(hit.entry.id, hit.score) for hit in collection.search(**query)] for query in queries]
        with ThreadPoolExecutor(50) as pool:
            together = list(pool.map(lambda query: collection.search(**query), queries))
        assert [[(hit.entry.id, hit.score) for hit in hits] for hits in together] == alone

    def test_through_the_server(self, client: TestClient) -> None:
        def ask(number: int) -> Any:
            labels = {"labels": [f"thing {number}", "other"], "picture": number % 6}
            return (
                client.post("/api/search", json={"texts": [f"a field number {number}"], "limit": 2}).json(),
                client.post("/api/classify", json=labels).json(),
                client.get(f"/api/pictures/{number % 6}/thumbnail").content,
            )

        alone = [ask(number) for number in range(50)]
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(ask, range(50))) == alone


class TestDescription:
    def test_every_operation_is_in_the_document(self, client: TestClient) -> None:
        found = client.get("/openapi.json").json()
        assert found == document() and found["openapi"].startswith("3.1")
        described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
        assert described == {(operation.method, operation.path) for operation in OPERATIONS}
        names = [operation["operationId"] for methods in found["paths"].values() for operation in methods.values()]
        assert len(set(names)) == len(names)
        for path, methods in found["paths"].items():
            for operation in methods.values():
                in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
                assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}

    def test_a_page_that_needs_nothing_from_outside(self, client: TestClient) -> None:
        page = client.get("/docs").text
        assert all(operation.path in page for operation in OPERATIONS)
        assert "http" not in page.replace("http://127.0.0.1:8000/", "").lower()

    def test_examples_on_it_work(self, client: TestClient) -> None:
        from lightning_clip.applications.search.web.openapi import EXAMPLES

        assert set(EXAMPLES) == {operation.path for operation in OPERATIONS if operation.body}
        for path, body in EXAMPLES.items():
            assert client.post(path, json=body).status_code == 200

    def test_unknown_parameters(self, client: TestClient) -> None:
        answer = client.get("/api/pictures?most=3")
        assert answer.status_code == 400 and "the address has no 'most': it has before, limit" in answer.text

    def test_defaults_are_within_their_limits(self) -> None:
        for operation in OPERATIONS:
            for name, schema in (*operation.parameters.items(), *operation.body.items()):
                if "default" in schema:
                    assert check(schema["default"], schema, name) == schema["default"]

    def test_a_flag_is_no_number(self) -> None:
        with pytest.raises(InputError, match="limit must be a whole number, not True"):
            fields({"limit": True}, {"limit": {"type": "integer"}}, "it")
