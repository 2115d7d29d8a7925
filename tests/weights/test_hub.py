"""Pushing to the hub over HTTP: a hub on this machine that keeps what it is sent, and one that refuses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_module

from lightning_clip import ClipModule, InputError
from lightning_clip.export.export import export, push_to_hub


class Hub(ThreadingHTTPServer):
    """As much of the hub as `create_repo` and `upload_folder` ask for; files come inside the commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.accounts: set[str | None] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.accounts.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            given = json.loads(body)
            if given.get("organization") == "no":
                return self._answer({"error": "You don't have the rights"}, 403)
            name = f"{given['organization']}/{given['name']}"
            self.server.repositories.setdefault(name, {})
            return self._answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "id": name})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if self.path.endswith("/commit/main"):
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            kept = self.server.repositories[name]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {"commitUrl": f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        return self._answer({"errors": [], "warnings": []})  # of the card's front matter

    def do_GET(self) -> None:
        known = self.path.removeprefix("/api/models/") in self.server.repositories
        self._answer({"id": "me/clip", "siblings": []} if known else {"error": "not found"}, 200 if known else 404)

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = small_module()
    module.configure_model()
    return export(module, "safetensors", tmp_path_factory.mktemp("export") / "clip").folder


def test_what_arrives_is_the_model(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert push_to_hub(folder, "me/clip") == f"http://127.0.0.1:{hub.server_port}/me/clip"
    assert hub.accounts == {"Bearer hf_of_a_test"}
    for name, content in hub.repositories["me/clip"].items():
        (tmp_path / name).write_bytes(content)
    assert {path.name for path in tmp_path.iterdir()} >= {"README.md", "lightning_clip.json", "model.safetensors"}
    sent, own = (ClipModule.from_pretrained(str(place)) for place in (tmp_path, folder))
    assert torch.equal(sent.encode_text(["a dog"]), own.encode_text(["a dog"]))


def test_a_refusal_leaves_the_folder(hub: Hub, folder: Path) -> None:
    with pytest.raises(InputError, match=r"is written, but repository 'no/rights' cannot be pushed to .*403.*hf auth login"):
        push_to_hub(folder, "no/rights")
    assert (folder / "model.safetensors").exists() and "no/rights" not in hub.repositories
