"""Towers, tokenizers and weights of a hub that does not answer: one line within seconds, and what was kept is still used."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download
from weights.families import bert_tokenizer

from lightning_clip import ClipModule, InputError
from lightning_clip.core import network


@pytest.fixture(params=["refuses", "keeps silent"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub at which nobody listens, or where somebody never answers."""
    monkeypatch.setattr(network, "_answers", {})
    monkeypatch.setattr(network, "_SECONDS", 0.5)
    for key in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "keeps silent":
            listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield address
    assert constants.HF_HUB_OFFLINE is False


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that somebody asks while the test runs."""
    asked: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        asked.append(address)
        super(socket.socket, self).connect(address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return asked


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"text_encoder": "hf:me/some-model"}, "tokenizer 'hf:me/some-model'"),
        ({"text_encoder": "hf:me/some-model", "tokenizer": "clip"}, "text tower 'hf:me/some-model'"),
        ({"image_encoder": {"name": "resnet18", "pretrained": True}}, "image tower .'name': 'resnet18'"),
        ({"pretrained": "hf:me/some-model"}, "pretrained 'hf:me/some-model'"),
        ({"pretrained": "open_clip:hf-hub:me/some-model"}, "pretrained 'open_clip:hf-hub:me/some-model'"),
        ({"pretrained": "open_clip:ViT-B-32/laion400m_e31"}, "pretrained 'open_clip:ViT-B-32/laion400m_e31'"),
    ],
)
def test_it_is_asked_once(arguments: dict[str, Any], named: str, hub: str, connections: list[Any]) -> None:
    """And said: left alone, the libraries try for half a minute."""
    message = f"{named}.* is not on this machine, and {hub} does not answer: .*HF_HUB_OFFLINE=1, or name a local folder or file"
    with pytest.raises(InputError, match=message):
        ClipModule(**arguments).configure_model()
    assert len(connections) == 1


def test_mistakes_of_other_kinds_are_said_as_ever(hub: str) -> None:
    with pytest.raises(InputError, match="open_clip has no model 'ViT-X-99'"):
        ClipModule(pretrained="open_clip:ViT-X-99/openai")


def test_what_was_downloaded_before_is_used(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert_tokenizer(tmp_path / "folder")
    snapshot = tmp_path / "hub/models--me--words/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub/models--me--words/refs").mkdir()
    (tmp_path / "hub/models--me--words/refs/main").write_text(snapshot.name)
    for file in (tmp_path / "folder").iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with network.hub_or_cache("a snapshot"):
        assert Path(snapshot_download("me/words", cache_dir=tmp_path / "hub")) == snapshot


def test_a_hub_is_asked_once_a_minute(hub: str) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="a thing is not on this machine"), network.hub_or_cache("a thing"):
            raise ConnectionError("offline mode is enabled")
    assert list(network._answers) == [hub] and network._answers[hub][1] is False
