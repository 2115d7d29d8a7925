"""Full and read-only disks, under commands that write: one line, nothing half-written, what was there before is kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hostile.conftest import recipe_of
from small import save_checkpoint, write_folder

Command = Callable[..., tuple[int, str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KILOBYTE = 1024


def mounted(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or done.returncode}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 kB, in which 150 kB are taken: too small for any model or shard."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted("-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place))
    (place / "taken").write_bytes(bytes(150 * KILOBYTE))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def read_only(disk: Path) -> Path:
    """The same, of which nothing can be changed."""
    mounted("-o", "remount,ro", str(disk))
    return disk


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, pictures, a suite and a recipe."""
    folder = tmp_path_factory.mktemp("sources")
    save_checkpoint(folder / "a.ckpt")
    write_folder(folder / "pictures", count=40, size=(400, 300))
    sets = {"a": {"name": "synthetic", "size": 64, "image_size": 32, "protocols": ["zero_shot"]}}
    trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    (folder / "suite.yaml").write_text(yaml.safe_dump({"sets": sets, "trainer": trainer}))
    return folder


def commands(sources: Path, disk: Path) -> dict[str, tuple[str, ...]]:
    model, table = str(sources / "a.ckpt"), str(sources / "pictures/captions.jsonl")
    pack = ("data", "pack", "--data", table, "--output", str(disk / "out-%06d.tar"), "--pairs-per-shard", "20")
    (sources / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(disk / "run")))
    return {
        "fit": ("fit", "--config", str(sources / "recipe.yaml")),
        "pack": pack,
        "pack with workers": (*pack, "--workers", "2"),
        "interpolate": ("interpolate", model, model, "--alpha", "0.5", "--output", str(disk / "mixed.ckpt")),
        "soup": ("soup", model, model, "--method", "uniform", "--output", str(disk / "soup.ckpt")),
        "export": ("export", model, "--format", "safetensors", "--output", str(disk / "exported")),
        "verify": ("data", "verify", "--data", table, "--output", str(disk / "faults.jsonl")),
        "evaluate": (
            "evaluate",
            "--checkpoint",
            model,
            "--suite",
            str(sources / "suite.yaml"),
            "--output",
            str(disk / "evaluated"),
        ),
    }


NAMES = ["fit", "pack", "pack with workers", "interpolate", "soup", "export", "verify", "evaluate"]


def left(disk: Path) -> set[str]:
    """Files that a command has left, apart from locks and what a Trainer says of its run."""
    found = {str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith((".lock", ".lock.by", "config.yaml", "hparams.yaml"))} - {"taken"}


def _is_whole(path: Path) -> bool:
    """Of an evaluation some files are complete when another has no room any more."""
    return path.name == "report.json" and "results" in json.loads(path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_full(name: str, sources: Path, disk: Path, command: Command) -> None:
    with (disk / "taken").open("ab") as stream:  # all but a few kilobytes, and for short texts all
        stream.write(bytes((50 if name == "verify" else 40) * KILOBYTE))
    code, said = command(*commands(sources, disk)[name])
    lines = [line for line in said.splitlines() if line.startswith("lightning-clip: error:")]
    if name == "evaluate" and code == 1:  # it goes on with other sets, and names what it could not keep
        assert "not measured" in said and ("full" in said or "No space left" in said), said
    else:
        assert code == 2 and len(lines) == 1, said
        assert "the disk is full" in lines[0] or "there is no space left" in lines[0], lines
    assert all(_is_whole(disk / file) for file in left(disk)), left(disk)


@pytest.mark.parametrize("name", NAMES)
def test_read_only(name: str, sources: Path, read_only: Path, command: Command) -> None:
    code, said = command(*commands(sources, read_only)[name])
    lines = [line for line in said.splitlines() if line.startswith("lightning-clip: error:")]
    assert code == 2 and len(lines) == 1, (code, said)
    assert "Read-only file system" in lines[0] or "can only be read" in lines[0], lines
    assert not left(read_only)


@pytest.mark.parametrize("name", ["fit", "verify"])
def test_what_was_there_before_is_whole(name: str, sources: Path, disk: Path, command: Command) -> None:
    old = disk / ("run/last.ckpt" if name == "fit" else "faults.jsonl")
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(b"what was there before")
    with (disk / "taken").open("ab") as stream:
        stream.write(bytes((46 if name == "verify" else 36) * KILOBYTE))
    more = ("--trainer.callbacks.enable_version_counter=false",) if name == "fit" else ()
    code, said = command(*commands(sources, disk)[name], *more)
    assert code == 2, said
    assert old.read_bytes() == b"what was there before"
