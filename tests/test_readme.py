"""The README's commands do what it says, in a folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import forked
from small import write_folder
from waiting import PATIENCE

from lightning_clip.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", README, re.S))
# The package's own program, wherever the environment put it.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=settings, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_commands_on_a_folder_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "my_pairs", count=30)
    for command in BLOCKS["folder"].strip().splitlines():
        program, *arguments = shlex.split(command)
        assert program == "lightning-clip" and main(arguments) == 0, command
    assert (tmp_path / "tokenizer.json").exists() and (tmp_path / "shards/train-000000.tar").exists()


def test_recipes_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in BLOCKS["recipes"].strip().splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert "mine.yaml" in capsys.readouterr().out and (tmp_path / "mine.yaml").read_text().startswith("# A CLIP model")


@pytest.mark.slow  # quicker: it is built in test_recipes.py, and tests/commands/test_cli.py trains by a recipe
def test_recipe_on_a_folder_of_pairs(tmp_path: Path) -> None:
    """As it stands, for one epoch in the place of all."""
    write_folder(tmp_path / "my_pairs", count=40)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = shell(BLOCKS["fit"].strip() + " --trainer.max_epochs=1 --model.training.optimizer.warmup_steps=1", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/flickr8k/last.ckpt").exists()


def test_first_python_block(tmp_path: Path) -> None:
    """As it stands, but for two steps in the place of 200."""
    code = BLOCKS["first"].replace("25_600", "256").replace('"warmup_steps": 20', '"warmup_steps": 1').replace("320", "16")
    done = forked(lambda: exec(compile(code, "README", "exec"), {"__name__": "__main__"}), folder=tmp_path)
    assert done.returncode == 0 and re.search(r"^\d+% of eight combinations .* chance is 12%$", done.stdout, re.M), done.stderr
    assert "LeafSpec" not in done.stderr


@pytest.mark.slow
def test_first_python_block_as_it_stands(tmp_path: Path) -> None:
    done = forked(lambda: exec(compile(BLOCKS["first"], "README", "exec"), {"__name__": "__main__"}), folder=tmp_path)
    share = re.search(r"^(\d+)% of eight combinations", done.stdout, re.M)
    assert done.returncode == 0 and share is not None and int(share[1]) >= 75, done.stdout + done.stderr


@pytest.mark.slow
def test_python_example(tmp_path: Path) -> None:
    """As it stands, but for two steps instead of 500 and a batch of 8 instead of 256."""
    code = (
        BLOCKS["python"]
        .replace("max_steps=500", "max_steps=2, limit_val_batches=2")
        .replace("local_batch_size=256", "local_batch_size=8")
    )
    code = code.replace('"size": 640', '"size": 16')
    assert "max_steps=2" in code and "local_batch_size=8" in code
    code += "\nprint(module.encode_image(images).shape)\n"
    done = forked(lambda: exec(compile(code, "README", "exec"), {"__name__": "__main__"}), folder=tmp_path)
    assert done.returncode == 0 and "torch.Size([8, 64])" in done.stdout, done.stderr


def test_make_lists_its_goals() -> None:
    listing = shell("make", ROOT).stdout
    for goal in ("demo", "test", "slow", "slow-share", "check", "format", "docs", "bench"):
        assert re.search(rf"^{goal}\s", listing, re.M)


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_constraints_hold_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[\w.-]+==[\w.+]+( ; python_version >= "3.11")?', line) for line in lines)
