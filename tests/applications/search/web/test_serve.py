"""`lightning-clip serve`: what it refuses, and a real server on a real port."""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from small import save_checkpoint, small_module
from waiting import PATIENCE, until

from lightning_clip import InputError
from lightning_clip.applications.search.web import Collection
from lightning_clip.applications.search.web.serving import bound, server_of
from lightning_clip.cli import main
from lightning_clip.model.predictor import Predictor


def answer(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=PATIENCE) as found:
        return json.load(found)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


class TestRefusals:
    def test_a_port_in_use(self, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with bound("127.0.0.1", 0) as taken:
            port = taken.getsockname()[1]
            assert f"--port {port} is in use: choose another, or 0 for a free one" in refused(
                capsys, str(index), "--port", str(port)
            )

    def test_no_index(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "is no index: build one with lightning-clip index build" in refused(capsys, str(tmp_path))

    def test_another_model(self, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = save_checkpoint(tmp_path / "other.ckpt", small_module(embed_dim=8))
        error = refused(capsys, str(index), "--port", "0", "--checkpoint", str(other))
        assert "was built with another model" in error and "search it with that one, or build it again" in error

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--host", "0.0.0.0"], "--host '0.0.0.0' lets other machines in, without a password: name with --allow-host"),
            (["--host", "192.0.2.1", "--allow-host", "x"], "--host '192.0.2.1' is no address of this machine"),
            (["--host", "no.such.name.invalid", "--allow-host", "x"], "is no address of this machine: give such as 127.0.0.1"),
            (["--port", "65536"], "--port 65536 "),
            (["--max-upload", "0"], "--max-upload 0 "),
            (["--device", "gpu"], "--device 'gpu' is no device"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], message: str, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert message in refused(capsys, str(index), *arguments)

    def test_without_the_extra(self, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def missing(name: str, *others: Any) -> Any:
            if name == "uvicorn":
                raise ImportError(name)
            return real(name, *others)

        monkeypatch.setattr(builtins, "__import__", missing)
        assert 'pip install "lightning-clip[serve]"' in refused(capsys, str(index))

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever runs this may use every port")
    def test_a_port_of_others(self) -> None:
        with pytest.raises(InputError, match="--port 1 may not be used by you: choose one above 1023"):
            bound("127.0.0.1", 1)


def test_a_server(index: Path, predictor: Predictor) -> None:
    """On a free port."""
    told: list[str] = []
    with bound("127.0.0.1", 0) as opened:
        server = server_of(Collection(index, predictor), opened, upload_limit=1000, started=told.append)
        thread = Thread(target=lambda: server.run(sockets=[opened]))
        thread.start()
        until(lambda: told, "the server says that it runs")
        found = answer(f"{told[0]}/api/index")
        with socket.create_connection(("127.0.0.1", opened.getsockname()[1]), timeout=PATIENCE) as raw:
            raw.sendall(b"GET /api/index HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 403")
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert found["pictures"] == 6 and found["upload_limit"] == 1000 and told == [f"http://127.0.0.1:{server_port(told)}"]


def server_port(told: list[str]) -> str:
    return told[0].rpartition(":")[2]


@pytest.mark.slow
def test_the_command(index: Path) -> None:
    """Started as people start it, and stopped by Ctrl-C."""
    command = [sys.executable, "-m", "lightning_clip", "serve", str(index), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        address = re.search(r"at (http://127\.0\.0\.1:\d+) \(API: .*/docs\)\. Ctrl-C stops it\.", lines[1])
        assert address, (lines, process.poll())
        assert answer(f"{address[1]}/api/index")["pictures"] == 6
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    finally:
        process.kill()
