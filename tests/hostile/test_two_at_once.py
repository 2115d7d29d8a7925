"""Two processes that write into one place at once: one is told in one line, or both are right; what is there is whole."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hostile.writers import FORMATS, WRITES_NOTHING, check_whole, make_sources, names, writers
from waiting import PATIENCE

from lightning_clip.cli import _COMMANDS, TRAINER_COMMANDS, build_parser, main
from lightning_clip.export.export import formats

REFUSALS = ("is being written by ", "exists and is never replaced", "the folder of this run's checkpoints")
# Formats share their lock.
NAMES = [name for name in names() if not name.startswith("export") or name == "export safetensors"]


def _child(arguments: tuple[str, ...], said: Path, start: Barrier) -> None:
    with said.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        start.wait(PATIENCE)
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        stream.flush()
        os._exit(code)


def both(folder: Path, arguments: tuple[str, ...]) -> list[tuple[int | None, str]]:
    """Runs a command in two processes that begin at one moment; their exit codes and what they said."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    notes = [folder / f"said{number}" for number in range(2)]
    processes = [context.Process(target=_child, args=(arguments, note, start)) for note in notes]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [(process.exitcode, note.read_text()) for process, note in zip(processes, notes, strict=True)]


def check(done: list[tuple[int | None, str]]) -> None:
    """One is right; the other is right too, or was told in one line."""
    codes = sorted(code if code is not None else -1 for code, _ in done)
    assert codes in ([0, 0], [0, 2]), done
    for code, said in done:
        assert "Traceback" not in said, said
        lines = [line for line in said.splitlines() if line.startswith("lightning-clip: error:")]
        assert len(lines) == (code == 2), said
        assert all(any(refusal in line for refusal in REFUSALS) for line in lines), said


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("sources"))


def test_every_command_that_writes_is_in_the_table() -> None:
    """A new command, or one that has begun to write, needs its entry in `writers`."""
    written = {writer.command for writer in writers(Path("sources"), Path("place"), make=False).values()}
    assert written | WRITES_NOTHING == {*TRAINER_COMMANDS, *_COMMANDS} and not written & WRITES_NOTHING
    assert set(FORMATS) == set(formats.names())
    for command in WRITES_NOTHING - set(TRAINER_COMMANDS):
        parsed = build_parser().parse_args([*command.split(), *MINIMAL[command]])
        assert not {"output", "figure", "report", "cache"} & set(vars(parsed)), command


MINIMAL = {
    "completion": ("bash",),
    "suites": (),
    "models": (),
    "plan": ("--config", "x"),
    "classify": ("x.png", "--labels", "a,b", "--checkpoint", "x"),
    "prompts show": (),
    "index info": ("x",),
    "serve": ("x",),
    "caption": ("x.png", "--checkpoint", "x"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_at_once(name: str, sources: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    writer = writers(sources, place)[name]
    check(both(tmp_path, writer.arguments))
    for output in writer.outputs:
        assert output.exists()
        check_whole(output)
    assert not [path for path in place.glob("*") if ".partial" in path.name or ".lock" in path.name]


@pytest.mark.slow
def test_the_place_is_free_again(sources: Path, tmp_path: Path) -> None:
    arguments = writers(sources, tmp_path)["fit"].arguments
    assert main(arguments) == 0 and main(arguments) == 0
