"""Requests of other websites are refused, and browsers are bound by headers."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from lightning_clip.applications.search.web import Collection, search_app


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "localhost.:1"])
def test_names_of_this_machine(host: str, client: TestClient) -> None:
    assert client.get("/api/index", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "[::2]:8000", "localhost@evil.example"],
)
@pytest.mark.parametrize("path", ["/", "/api/index", "/static/page.js", "/nowhere"])
def test_dns_rebinding(host: str, path: str, client: TestClient) -> None:
    """A website whose name was made to point here sends that name."""
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 403 and "is not served here: open http://127.0.0.1" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9000", "null", "http://localhost:8000", "file://"])
def test_foreign_origins(origin: str, client: TestClient) -> None:
    answer = client.post("/api/search", json={"texts": ["a"]}, headers={"origin": origin})
    assert answer.status_code == 403 and "is another website" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://127.0.0.1:8000"])
def test_its_own_origin(origin: str, client: TestClient) -> None:
    """Also behind something that adds TLS."""
    assert client.post("/api/search", json={"texts": ["a"]}, headers={"origin": origin}).status_code == 200


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [("cross-site", "no-cors", 403), ("same-site", "cors", 403), ("cross-site", "navigate", 200), ("same-origin", "cors", 200)],
)
def test_what_browsers_tell(site: str, mode: str, status: int, client: TestClient) -> None:
    """A picture of the collection shown on another website; a link to the page is no harm."""
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert client.get("/api/pictures/0/thumbnail", headers=headers).status_code == status


def test_another_name_by_leave(collection: Collection) -> None:
    client = TestClient(search_app(collection, ["Photos.Home"]), base_url="http://photos.home")
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "others.home"}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/api/index", "/static/page.js", "/nowhere", "/docs", "/api/pictures/0/thumbnail?v=1"])
def test_headers(path: str, client: TestClient) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin" and "access-control-allow-origin" not in headers
    assert headers["cache-control"] in ("no-store", "no-cache", "private, max-age=86400")


def test_methods(client: TestClient) -> None:
    for method, path in (("GET", "/api/search"), ("POST", "/api/index"), ("DELETE", "/api/pictures/0"), ("PUT", "/")):
        assert client.request(method, path).status_code == 405


def test_a_fault_of_ours_says_nothing_of_the_machine(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(collection, "about", broken)
    client = TestClient(search_app(collection), base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/api/index")
    assert answer.status_code == 500 and "secret" not in answer.text and "RuntimeError" in answer.json()["error"]
