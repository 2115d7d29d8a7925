"""Full and read-only disks, under every command that writes: one line, nothing half-written, what was there before is kept."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile.writers import Writer, check_whole, make_sources, names, writers

Command = Callable[..., tuple[int, str]]
pytestmark = pytest.mark.slow
KILOBYTE = 1024
# What is so short that it fits into a few kilobytes.
SHORT = (
    "detect",
    "segment",
    "explain",
    "imagine",
    "predict",
    "test with a report",
    "prompts search",
    "tokenizer train",
    "inspect",
    "inspect to a report",
    "curate",
    "search",
    "verify",
    "recipes",
    "start",
)
# They make several files, of which some are complete when another has no room.
SEVERAL = (
    "evaluate",
    "compare",
    "prompts search",
    "curate",
    "teach",
    "index build",
    "test with a report",
    "inspect to a report",
)


def mounted(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or done.returncode}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, name: str, again: bool = False) -> None:
    """Leaves 40 kB, so that a write fails in its middle; nothing where what is written is shorter."""
    state = os.statvfs(disk)
    leave = 0 if name in SHORT or (again and name == "compare") else 40 * KILOBYTE
    with (disk / "taken").open("ab") as stream:
        stream.write(bytes(max(0, state.f_bavail * state.f_frsize - leave)))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("sources"))


def left(disk: Path) -> dict[str, bytes]:
    """Files that a command has left, apart from locks and what a Trainer says of its run."""
    found = {str(path.relative_to(disk)): path for path in disk.rglob("*") if path.is_file()}
    ignored = (".lock", ".lock.by", "config.yaml", "hparams.yaml", "taken")
    return {name: path.read_bytes() for name, path in found.items() if not name.endswith(ignored)}


def check_refusal(name: str, code: int, said: str, *words: str) -> None:
    lines = [line for line in said.splitlines() if line.startswith("lightning-clip: error:")]
    if name == "evaluate" and code == 1:  # it goes on with other sets, and names what it could not keep
        assert "not measured" in said and any(word in said for word in (*words, "No space left")), said
    else:
        assert code == 2 and len(lines) == 1, (code, said)
        assert any(word in lines[0] for word in words), lines


FULL = ("the disk is full", "there is no space left")
READ_ONLY = ("Read-only file system", "can only be read")


@pytest.mark.parametrize("name", names())
def test_full(name: str, sources: Path, disk: Path, command: Command) -> None:
    fill(disk, name)
    code, said = command(*writers(sources, disk)[name].arguments)
    check_refusal(name, code, said, *FULL)
    assert name in SEVERAL or not left(disk), set(left(disk))
    check_whole(disk)


@pytest.mark.parametrize("name", names())
def test_read_only(name: str, sources: Path, disk: Path, command: Command) -> None:
    mounted("-o", "remount,ro", str(disk))
    code, said = command(*writers(sources, disk)[name].arguments)
    check_refusal(name, code, said, *READ_ONLY)
    assert not left(disk)


def check_kept(name: str, writer: Writer, before: dict[str, bytes], disk: Path) -> None:
    now = left(disk)
    assert set(before) <= set(now), set(before) - set(now)
    changed = {path for path in before if now[path] != before[path]}
    assert not changed or name in SEVERAL, changed
    for output in writer.outputs:
        check_whole(output)
    check_whole(disk)


@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("export") or name == "export safetensors"])
def test_what_was_there_before_is_whole(name: str, sources: Path, disk: Path, command: Command) -> None:
    """A second time, on a disk that is full by now and then can only be read."""
    writer = writers(sources, disk)[name]
    assert command(*writer.arguments)[0] == 0
    before = left(disk)
    assert before
    fill(disk, name, again=True)
    code, said = command(*writer.arguments)
    done = "pack" in name or name in ("teach", "index build")  # nothing is left to be written
    if writer.replaces:
        check_refusal(name, code, said, *FULL)
    else:
        assert done or (code == 2 and "exists and is never replaced" in said), (code, said)
    check_kept(name, writer, before, disk)
    mounted("-o", "remount,ro", str(disk))
    code, said = command(*writer.arguments)
    if writer.replaces:
        check_refusal(name, code, said, *READ_ONLY)
    check_kept(name, writer, before, disk)


def test_an_earlier_choice_of_pairs_stays(sources: Path, disk: Path, command: Command) -> None:
    """Shards of other pairs take the place of those before when they are complete."""
    curate = writers(sources, disk)["curate"].arguments
    assert command(*curate)[0] == 0
    before, names = left(disk), ("curated/kept.npy", "curated/shards/")
    fill(disk, "curate with other filters")
    code, said = command(*curate, "--filters=[{name: caption_length, min_words: 3}]")
    check_refusal("curate", code, said, *FULL)
    assert {path for path in before if path.startswith(names)} and all(
        left(disk)[path] == content for path, content in before.items() if path.startswith(names)
    )
    (disk / "taken").unlink()
    assert command(*curate, "--filters=[{name: caption_length, min_words: 3}]")[0] == 0
    assert left(disk)["curated/kept.npy"] != before["curated/kept.npy"]
    assert (
        left(disk)["curated/shards/kept.npy"] == left(disk)["curated/kept.npy"] and not (disk / "curated/shards.new").exists()
    )


def test_settings_of_an_earlier_run_are_whole(sources: Path, disk: Path, command: Command) -> None:
    """`config.yaml` is written before anything else."""
    writer = writers(sources, disk)["fit"]
    assert command(*writer.arguments)[0] == 0
    config = writer.outputs[1].read_bytes()
    with (disk / "taken").open("ab") as stream:
        state = os.statvfs(disk)
        stream.write(bytes(state.f_bavail * state.f_frsize))
    code, said = command(*writer.arguments, "--trainer.max_steps=3")
    check_refusal("fit", code, said, *FULL)
    assert writer.outputs[1].read_bytes() == config
