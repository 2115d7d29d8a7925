"""Two processes that write into one place at once: one is told in one line, or both are right; what is there is whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
import yaml
from hostile.conftest import recipe_of
from small import save_checkpoint, write_folder
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from lightning_clip import ClipModule
from lightning_clip.checkpoints.parts import write_parts
from lightning_clip.cli import main

SECONDS = 90
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _child(arguments: list[str], said: Path, start: Barrier) -> None:
    with said.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        start.wait(SECONDS)
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        stream.flush()
        os._exit(code)


def both(tmp_path: Path, *arguments: str) -> list[tuple[int | None, str]]:
    """Runs a command in two processes that begin at one moment; their exit codes and what they said."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    notes = [tmp_path / f"said{number}" for number in range(2)]
    processes = [context.Process(target=_child, args=(list(arguments), note, start)) for note in notes]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return [(process.exitcode, note.read_text()) for process, note in zip(processes, notes, strict=True)]


def check(done: list[tuple[int | None, str]], *refusals: str) -> None:
    """One is right; the other is right too, or was told in one line."""
    codes = sorted(code if code is not None else -1 for code, _ in done)
    assert codes in ([0, 0], [0, 2]), done
    for code, said in done:
        assert "Traceback" not in said, said
        lines = [line for line in said.splitlines() if line.startswith("lightning-clip: error:")]
        assert len(lines) == (code == 2), said
        assert all(any(refusal in line for refusal in refusals) for line in lines), said


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("one") / "a.ckpt")


WRITTEN = ("is being written by ", "exists and is never replaced")


def test_interpolate(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "mixed.ckpt"
    check(both(tmp_path, "interpolate", str(checkpoint), str(checkpoint), "--alpha", "0.5", "--output", str(output)), *WRITTEN)
    assert ClipModule.load_from_checkpoint(output).embed_dim == 16


def test_soup(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "soup.ckpt"
    check(both(tmp_path, "soup", str(checkpoint), str(checkpoint), "--method", "uniform", "--output", str(output)), *WRITTEN)
    assert ClipModule.load_from_checkpoint(output).embed_dim == 16


def test_consolidate(tmp_path: Path) -> None:
    folder = tmp_path / "parts.ckpt"
    state = {"state_dict": {"weight": torch.arange(6.0)}}
    _save_state_dict(state, FileSystemWriter(folder, single_file_per_rank=True), no_dist=True)
    torch.save({"lightning_clip_class": "lightning_clip.ClipModule", "global_step": 3}, folder / "meta.pt")
    write_parts(folder, 3)
    output = tmp_path / "one.ckpt"
    check(both(tmp_path, "checkpoint", "consolidate", str(folder), "--output", str(output)), *WRITTEN)
    assert torch.equal(torch.load(output, weights_only=True)["state_dict"]["weight"], torch.arange(6.0))


def test_export(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    check(both(tmp_path, "export", str(checkpoint), "--format", "safetensors", "--output", str(output)), *WRITTEN)
    assert ClipModule.from_pretrained(str(output)).embed_dim == 16


def test_pack(tmp_path: Path) -> None:
    table, output = write_folder(tmp_path / "pictures"), tmp_path / "packed-%06d.tar"
    done = both(tmp_path, "data", "pack", "--data", str(table), "--output", str(output), "--pairs-per-shard", "3")
    check(done, *WRITTEN)
    assert main(["data", "verify", "--data", str(tmp_path / "packed-{000000..000001}.tar")]) == 0


def test_verify(tmp_path: Path) -> None:
    table, output = write_folder(tmp_path / "pictures"), tmp_path / "faults.jsonl"
    check(both(tmp_path, "data", "verify", "--data", str(table), "--output", str(output)), *WRITTEN)
    assert {json.loads(line)["reason"] for line in output.read_text().splitlines()} == {"nearly one tone"}


def test_evaluate(checkpoint: Path, tmp_path: Path) -> None:
    sets = {"a": {"name": "synthetic", "size": 8, "image_size": 32, "protocols": ["zero_shot"]}}
    trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": sets, "trainer": trainer}))
    paths = ("--suite", str(tmp_path / "suite.yaml"), "--output", str(tmp_path / "out"))
    check(both(tmp_path, "evaluate", "--checkpoint", str(checkpoint), *paths), *WRITTEN)
    assert (tmp_path / "out/report.html").read_text().rstrip().endswith("</html>")
    assert not list(tmp_path.glob(".*"))


def test_fit(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path / "run")))
    check(both(tmp_path, "fit", "--config", str(tmp_path / "recipe.yaml")), "the folder of this run's checkpoints")
    assert ClipModule.load_from_checkpoint(tmp_path / "run/last.ckpt").embed_dim == 16
    assert not list(tmp_path.glob(".*")) and main(["fit", "--config", str(tmp_path / "recipe.yaml")]) == 0  # it is free again
