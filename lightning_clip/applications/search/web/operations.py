"""Operations of the API: a table from which its routes, its checks and its OpenAPI document are made.

A further operation is one function and one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_clip.applications.search.entries import Entry
from lightning_clip.applications.search.index import Hit
from lightning_clip.applications.search.web.collection import Collection
from lightning_clip.applications.search.web.schema import Schema
from lightning_clip.core.errors import InputError

__all__ = ["OPERATIONS", "Missing", "Operation", "shown"]


class Missing(InputError):
    """What was asked for is not there: 404."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        method: of HTTP.
        path: with {name} where a parameter stands.
        summary: one line of documentation.
        run: (collection, checked values by name) -> an answer for JSON, or the bytes of a JPEG.
        parameters: name -> description, of the path and of what follows the ?.
        body: name -> description, of the JSON object that is sent.
        sends_picture: the body is an encoded picture, handed to `run` as "content".
        gives_picture: the answer is a JPEG.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Collection, dict[str, Any]], Any]
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)
    sends_picture: bool = False
    gives_picture: bool = False


def shown(entry: Entry) -> dict[str, Any]:
    """A picture of the index as the API gives it."""
    return {
        "id": entry.id,
        "key": entry.key,
        "place": entry.place,
        "captions": list(entry.captions),
        "width": entry.width,
        "height": entry.height,
        "thumbnail": f"/api/pictures/{entry.id}/thumbnail?v={entry.digest.hex()[:8]}",
    }


def _hits(hits: list[Hit]) -> list[dict[str, Any]]:
    return [{"score": round(hit.score, 4), **shown(hit.entry)} for hit in hits]


def _found(collection: Collection, number: int) -> Entry:
    try:
        return collection.entry(number)
    except InputError as error:
        raise Missing(str(error)) from None


def _thumbnail(collection: Collection, given: dict[str, Any]) -> bytes:
    _found(collection, given["id"])
    if content := collection.thumbnail(given["id"]):
        return content
    raise Missing(f"picture {given['id']} has no thumbnail: build the index with --thumbnail 224")


def _relevance(collection: Collection, given: dict[str, Any]) -> bytes:
    _found(collection, given["id"])
    return collection.relevance(given["id"], given["text"])


def _search(collection: Collection, given: dict[str, Any]) -> dict[str, Any]:
    most = given.pop("limit")
    return {"hits": _hits(collection.search(**given, most=most))}


def _classify(collection: Collection, given: dict[str, Any]) -> dict[str, Any]:
    vector = given["vector"]
    if given["picture"] >= 0:
        _found(collection, given["picture"])
        vector = collection.vector_of(given["picture"])
    if not len(vector):
        raise InputError("no picture: give the id of one as 'picture', or the vector that /api/encode gives of yours")
    found = collection.classify(given["labels"], vector, given["prompt"])
    names = [label.strip() for label in given["labels"] if label.strip()]
    return {"labels": [{"label": name, "probability": round(value, 6)} for name, value in zip(names, found, strict=True)]}


def _duplicates(collection: Collection, given: dict[str, Any]) -> dict[str, Any]:
    found = collection.surveys.duplicates(given["threshold"])
    return {**found, "groups": [[{"score": 1.0, **shown(first)}, *_hits(others)] for first, others in found["groups"]]}


_TEXTS = {"type": "array", "maxItems": 50, "items": {"type": "string"}, "default": []}
_VECTOR = {"type": "array", "maxItems": 65_536, "items": {"type": "number"}}
_ID = {"type": "integer", "minimum": 0, "maximum": 2**53, "description": "number of a picture of the index"}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 40, "description": "pictures at most"}
_QUERY = {
    "texts": {**_TEXTS, "description": "texts that say what is wanted"},
    "without": {**_TEXTS, "description": "texts that say what is not wanted"},
    "like": {
        "type": "array",
        "maxItems": 50,
        "items": _ID,
        "default": [],
        "description": "pictures of the index to find more of",
    },
    "vectors": {
        "type": "array",
        "maxItems": 50,
        "items": _VECTOR,
        "default": [],
        "description": "vectors of pictures from outside, as /api/encode gives them",
    },
    "caption": {
        "type": "string",
        "maxLength": 2000,
        "default": "",
        "description": "only pictures whose captions have all these words; one that ends in * stands for all that begin so",
    },
    "against": {"type": "number", "minimum": 0, "maximum": 2, "default": 0.5, "description": "weight of what is not wanted"},
    "limit": _LIMIT,
}
_CLASSIFY = {
    "labels": {
        "type": "array",
        "maxItems": 200,
        "items": {"type": "string", "maxLength": 500},
        "description": "at least two names, each once",
    },
    "picture": {
        "type": "integer",
        "minimum": -1,
        "maximum": 2**53,
        "default": -1,
        "description": "of the index; -1 for another",
    },
    "vector": {**_VECTOR, "default": [], "description": "of a picture from outside, as /api/encode gives it"},
    "prompt": {
        "type": "string",
        "maxLength": 500,
        "default": "simple",
        "description": "with {} where the label goes, or the name of a set: plain, simple, imagenet, imagenet_simple",
    },
}
_BEFORE = {
    "type": "integer",
    "minimum": -1,
    "maximum": 2**53,
    "default": -1,
    "description": "only ids below it; -1 for the newest",
}
_POINTS = {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 3000, "description": "points at most"}
_THRESHOLD = {
    "type": "number",
    "minimum": 0.5,
    "maximum": 1,
    "default": 0.97,
    "description": "cosine similarity to the first of a group; 1 for the very same",
}

OPERATIONS = (
    Operation("GET", "/api/index", "What the index holds, and how far a build is", lambda collection, _: collection.about()),
    Operation(
        "GET",
        "/api/pictures",
        "The newest pictures, each once",
        lambda collection, given: {
            "pictures": [
                shown(entry) for entry in collection.latest(None if given["before"] < 0 else given["before"], given["limit"])
            ]
        },
        parameters={"before": _BEFORE, "limit": _LIMIT},
    ),
    Operation(
        "GET",
        "/api/pictures/{id}",
        "One picture: its captions, its size, and where it is",
        lambda collection, given: shown(_found(collection, given["id"])),
        parameters={"id": _ID},
    ),
    Operation(
        "GET",
        "/api/pictures/{id}/thumbnail",
        "The small picture",
        _thumbnail,
        parameters={"id": _ID, "v": {"type": "string", "default": "", "description": "any text; makes the address its own"}},
        gives_picture=True,
    ),
    Operation(
        "GET",
        "/api/pictures/{id}/relevance",
        "The picture as the model sees it, bright where a text is seen in it",
        _relevance,
        parameters={"id": _ID, "text": {"type": "string", "maxLength": 2000, "description": "what to look for in it"}},
        gives_picture=True,
    ),
    Operation("POST", "/api/search", "Pictures by words, by pictures, or by both, best first", _search, body=_QUERY),
    Operation(
        "POST",
        "/api/encode",
        "The vector of a picture from outside, for search and classify",
        lambda collection, given: {"vector": [round(value, 7) for value in collection.encode(given["content"]).tolist()]},
        sends_picture=True,
    ),
    Operation("POST", "/api/classify", "How probable each of several labels is for a picture", _classify, body=_CLASSIFY),
    Operation(
        "GET",
        "/api/map",
        "A map: [id, x, y, red, green, blue] of each point, by two principal components",
        lambda collection, given: collection.surveys.map(given["points"]),
        parameters={"points": _POINTS},
    ),
    Operation(
        "GET",
        "/api/duplicates",
        "Groups of pictures that are alike, the largest first",
        _duplicates,
        parameters={"threshold": _THRESHOLD},
    ),
)
