"""The script that completes commands in a shell, sourced by bash as a user's would be; and `--version`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from waiting import PATIENCE

import lightning_clip
from lightning_clip.cli import build_parser, main
from lightning_clip.commands.completion import completion_script

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p lightning-clip | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "recipe.yaml").touch()
    (folder / "lightning-clip.bash").write_text(completion_script("bash", build_parser()))
    return folder / "lightning-clip.bash"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lightning-clip classif", {"classify"}),
        ("lightning-clip data ins", {"inspect"}),
        ("lightning-clip classify --labels", {"--labels", "--labels-file"}),
        ("lightning-clip fit --trainer.max_", {"--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time"}),
        ("lightning-clip fit --model.image_e", {"--model.image_encoder"}),
        ("lightning-clip fit --trainer.precision bf", {"bf16-true", "bf16-mixed", "bf16"}),
        ("lightning-clip fit --config rec", {"recipe.yaml"}),
        ("lightning-clip fit rec", {"recipe.yaml"}),
        ("lightning-clip plan --config rec", {"recipe.yaml"}),
        ("lightning-clip classify --labels rec", set()),
        ("lightning-clip completion z", {"zsh"}),
    ],
)
def test_bash_completes(words: str, expected: set[str], script: Path) -> None:
    command = ASK.format(script=script, words=words)
    done = subprocess.run(
        ["bash", "-c", command], cwd=script.parent, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert set(done.stdout.split()) == expected


def test_without_its_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert re.search(r'completion needs shtab: pip install "lightning-clip\[completion\]"', capsys.readouterr().err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert not left.value.code
    shown = capsys.readouterr().out.strip()
    assert shown.startswith(f"lightning-clip {lightning_clip.__version__} (Python 3.") and f"torch {version('torch')}" in shown
