"""The 25 mistakes that people make in their first hour, each answered by one line: a table in plain words.

What tests beside this one hold is not repeated: wrong settings of every part in `commands/test_cli.py`, labels and pictures in
`commands/test_classify.py`, damaged files in `hostile/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from hostile.conftest import recipe_of
from PIL import Image
from small import save_checkpoint, write_folder

from lightning_clip.cli import main


class Mistake(NamedTuple):
    """What somebody does, and what the line that answers must say."""

    typed: str
    answer: str


FIT = "fit mine.yaml"
MODEL = "--checkpoint model.ckpt"
MISTAKES = {
    "the recipe's path is wrong": Mistake("fit recipes/min.yaml", "'recipes/min.yaml' does not exist: there is no folder"),
    "--config without a value": Mistake("fit --config", r"expected .*argument"),
    "train in the place of fit": Mistake("train mine.yaml", "invalid choice: 'train', did you mean 'fit'?"),
    "an option of another trainer": Mistake(f"{FIT} --epochs 3", "--epochs 3, did you mean --trainer.max_epochs?"),
    "an option without its section": Mistake(f"{FIT} --max-steps 3", "--max-steps 3, did you mean --trainer.max_steps?"),
    "a misspelt section in the recipe": Mistake("fit modle.yaml", "'modle.yaml', line 2: a recipe has no 'modle', .*'model'?"),
    "a misspelt setting in the recipe": Mistake("fit batch.yaml", "line 3: data has no setting 'batch_size', .*'local_batch_"),
    "a word for a number": Mistake("fit words.yaml", "'words.yaml', line 9: trainer.max_steps 'many' must be a whole number"),
    "a tab in the recipe": Mistake("fit tab.yaml", "'tab.yaml' cannot be read: line 3, column 1: .*indent by spaces"),
    "a variable that is not set": Mistake("fit env.yaml", "line 4: data.train needs the environment variable NO_SUCH_PAIRS"),
    "the file of another command": Mistake("fit suite.yaml", "'sets' is no part of a recipe .*: this is a suite for"),
    "a recipe as a suite": Mistake(f"evaluate --suite mine.yaml {MODEL}", "the suite has no setting 'model'"),
    "an empty folder": Mistake(f"{FIT} --data.train=empty", "'empty' holds nothing that is known as pairs"),
    "pictures without captions": Mistake(f"{FIT} --data.train=bare", "holds images without text or class: put x.txt beside"),
    "a table without the columns": Mistake(
        f"{FIT} --data.train=odd.csv", r"'odd.csv' has no column 'image': .*'caption'|columns? .*'bild'|bild"
    ),
    "a table of pictures that are not there": Mistake(
        f"{FIT} --data.train=gone.csv --data.local_batch_size=2", "could be used.*image file missing"
    ),
    "a batch that is larger than the data": Mistake(
        f"{FIT} --data.local_batch_size=100", "needs 100 samples, but the data has 16: set local_batch_size to at most 16"
    ),
    "fewer than no workers": Mistake(f"{FIT} --data.num_workers=-1", "num_workers -1 >= 0"),
    "a learning rate of 0": Mistake(f"{FIT} --model.training.optimizer.lr=0", "lr 0 must be > 0"),
    "a width below 1": Mistake(f"{FIT} --model.embed_dim=-3", "embed_dim -3 must be a whole number >= 1"),
    "a precision of other libraries": Mistake(
        f"{FIT} --trainer.precision=fp16", "'fp16' must be one of .*did you mean '16-mixed'"
    ),
    "a GPU where there is none": Mistake(f"{FIT} --trainer.accelerator=mps", "accelerator is not available.*'cpu'"),
    "devices by a word": Mistake(f"{FIT} --trainer.devices=two", "the Trainer does not take these settings: `devices`"),
    "the checkpoint of another library": Mistake(
        "classify red.png --labels a,b --checkpoint other.ckpt", "'other.ckpt' was not written by ClipModule"
    ),
    "a label that holds a space": Mistake(f"classify red.png {MODEL} --labels a dog", 'in quotes: --labels "a dog"'),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that works, and with what goes wrong."""
    folder = tmp_path_factory.mktemp("desk")
    recipe = recipe_of(folder)
    whole = yaml.safe_dump(recipe, sort_keys=False)
    (folder / "mine.yaml").write_text(whole)
    (folder / "suite.yaml").write_text("sets: {scenes: {name: synthetic, protocols: [zero_shot]}}\n")
    (folder / "modle.yaml").write_text(f"# mine\nmodle: {{embed_dim: 16}}\n{whole[whole.index('data:') :]}")
    (folder / "batch.yaml").write_text("data:\n  train: synthetic\n  batch_size: 8\n")
    (folder / "words.yaml").write_text(
        "model:\n  embed_dim: 16\n\n\n\ndata:\n  train: synthetic\ntrainer:\n  max_steps: many\n"
    )
    (folder / "tab.yaml").write_text("data:\n  train: synthetic\n\tlocal_batch_size: 8\n")
    (folder / "env.yaml").write_text("model:\n  embed_dim: 16\ndata:\n  train: ${oc.env:NO_SUCH_PAIRS}/train\n")
    (folder / "empty").mkdir()
    (folder / "bare").mkdir()
    for place in ("bare/0.png", "red.png"):
        Image.new("RGB", (9, 9), "red").save(folder / place)
    write_folder(folder / "pairs")
    (folder / "odd.csv").write_text("bild,wort\n" + "".join(f"pairs/{place}.jpg,wort {place}\n" for place in range(6)))
    (folder / "gone.csv").write_text("image,caption\nlost.jpg,a\nmissing.jpg,b\n")
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, folder / "other.ckpt")
    save_checkpoint(folder / "model.ckpt")
    return folder


@pytest.fixture
def answer(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What a command that is typed answers: its exit code is 2, and the answer is one line and nothing else."""
    monkeypatch.chdir(desk)

    def typed(text: str) -> str:
        try:
            code = main(text.split())
        except SystemExit as left:
            code = left.code  # type: ignore[assignment]
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line.startswith("lightning-clip")]
        assert code == 2 and len(lines) == 1, printed.err
        assert "Traceback" not in printed.err + printed.out
        return lines[0]

    return typed


@pytest.mark.parametrize("mistake", MISTAKES)
def test_is_answered_by_one_line(mistake: str, answer: Callable[[str], str]) -> None:
    found = answer(MISTAKES[mistake].typed)
    assert re.search(MISTAKES[mistake].answer, found), found
    assert len(found) < 600, found


def test_there_are_25() -> None:
    assert len(MISTAKES) == 25 and len({mistake.typed for mistake in MISTAKES.values()}) == 25


def test_the_recipe_itself_works(answer: Callable[[str], str], desk: Path) -> None:
    """What the mistakes are made in is right: by its path alone, and with an option behind it."""
    assert main(["fit", str(desk / "mine.yaml"), "--trainer.max_steps=1"]) == 0
    assert main(["plan", str(desk / "mine.yaml"), "--device", "cpu", "--peak-flops", "1e11", "--device-memory", "8"]) == 0
