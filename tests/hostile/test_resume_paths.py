"""What `--ckpt_path` may say: right, or one line that names what is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hostile.conftest import recipe_of

Refuses = Callable[..., None]
Command = Callable[..., tuple[int, str]]


def step_of(path: Path) -> int:
    step: int = torch.load(path, weights_only=True)["global_step"]
    return step


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lost.ckpt", "checkpoint 'lost.ckpt' does not exist. In '.': .*last.ckpt"),
        ("lost/last.ckpt", "checkpoint 'lost/last.ckpt' does not exist: there is no folder 'lost' either"),
        ("", "--ckpt_path is empty: name a checkpoint's file, say last, or omit it"),
        ("l*.ckpt", r"--ckpt_path 'l\*.ckpt' must name one checkpoint, it fits 1: last.ckpt"),
        ("no*.ckpt", r"--ckpt_path 'no\*.ckpt' must name one checkpoint, and none fits"),
        (".", r"--ckpt_path '.' is a folder that is no checkpoint, name one of those in it: .*last.ckpt"),
        ("hollow", "--ckpt_path 'hollow' is a folder that is no checkpoint, and there is none in it"),
        ("parts", "checkpoint 'parts' is a folder, which only the strategy that wrote it reads: .* consolidate parts"),
        ("best", "--ckpt_path best is known only to the Trainer that has just trained: name the file, or say last"),
        ("hpc", "--ckpt_path hpc: there is no hpc_ckpt_NUMBER.ckpt in '.*': name a file, or say last"),
        ("registry:mine", "--ckpt_path 'registry:mine' asks Lightning's registry: pip install litmodels, or name a file"),
    ],
)
def test_one_line(
    given: str, message: str, trained: Path, refuses: Refuses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(trained / "last.ckpt", tmp_path)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/meta.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    command = "fit" if given != "hpc" else "predict"
    refuses(command, "--config", str(trained / "recipe.yaml"), "--ckpt_path", given, match=message)


class TestLast:
    def test_begins_anew_and_goes_on(self, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """One command starts a job and restarts it."""
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path / "run")))
        words = ("fit", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last")
        assert command(*words)[0] == 0
        assert "--ckpt_path last: there is no last.ckpt in " in caplog.text and "so this run begins anew" in caplog.text
        caplog.clear()
        more = ("--trainer.max_steps=3", "--model.training.optimizer.on_resume=given")
        assert command(*words, *more)[0] == 0
        assert "begins anew" not in caplog.text
        assert [step_of(path) for path in (tmp_path / "run").glob("last*.ckpt")] == [3]

    def test_takes_the_newest(self, trained: Path, command: Command, tmp_path: Path) -> None:
        recipe = recipe_of(tmp_path)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for number, name in enumerate(("last-v1.ckpt", "last.ckpt")):
            shutil.copy(trained / "last.ckpt", tmp_path / name)
            os.utime(tmp_path / name, (1e9 - number, 1e9 - number))
        (tmp_path / "last.ckpt").write_bytes(b"older and broken")
        os.utime(tmp_path / "last.ckpt", (9e8, 9e8))
        assert command("validate", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last")[0] == 0

    def test_is_checked(self, refuses: Refuses, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path)))
        (tmp_path / "last.ckpt").write_bytes(b"cut off")
        refuses("fit", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last", match="checkpoint '.*last.ckpt' holds")

    def test_evaluates_no_random_weights(self, refuses: Refuses, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path / "run")))
        message = "--ckpt_path last: there is no last.ckpt in .*run: name a file, or train first"
        refuses("test", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last", match=message)

    @pytest.mark.parametrize("callbacks", [[], ["lightning.pytorch.callbacks.ModelCheckpoint"]])
    def test_wants_a_folder_that_stays(self, callbacks: list[str], refuses: Refuses, tmp_path: Path) -> None:
        """With a logger that numbers its runs nothing could ever be found: said at once, and not after a lost day."""
        recipe = recipe_of(tmp_path, logger=True, callbacks=[{"class_path": path} for path in callbacks])
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        message = "last finds nothing where each run has a folder of its own: set dirpath of the recipe's ModelCheckpoint"
        refuses("fit", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last", match=message)

    @pytest.mark.slow
    def test_without_a_dirpath(self, trained: Path, command: Command, tmp_path: Path) -> None:
        """The root folder stays the same, and so does a version that was given."""
        version = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(tmp_path), "version": "a"},
        }
        for logger, folder in ((False, "checkpoints"), (version, "lightning_logs/a/checkpoints")):
            (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path, logger=logger, callbacks=[])))
            (tmp_path / folder).mkdir(parents=True)
            shutil.copy(trained / "last.ckpt", tmp_path / folder)
            assert command("validate", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last")[0] == 0

    @pytest.mark.slow
    def test_of_a_run_that_a_signal_ended(self, trained: Path, command: Command, tmp_path: Path) -> None:
        """Without ModelCheckpoint `SaveOnSignal` writes into the root folder, or into its own."""
        own = {"class_path": "lightning_clip.SaveOnSignal", "init_args": {"folder": str(tmp_path / "own")}}
        for callbacks, folder in (([], tmp_path), ([own], tmp_path / "own")):
            recipe = recipe_of(tmp_path, enable_checkpointing=False, callbacks=callbacks)
            (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            folder.mkdir(exist_ok=True)
            shutil.move(shutil.copy(trained / "last.ckpt", tmp_path / "copy"), folder / "last.ckpt")
            assert command("validate", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "last")[0] == 0
            (folder / "last.ckpt").unlink()


def test_hpc_is_found(trained: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(tmp_path)))
    shutil.copy(trained / "last.ckpt", tmp_path / "hpc_ckpt_3.ckpt")
    assert command("test", "--config", str(tmp_path / "recipe.yaml"), "--ckpt_path", "hpc")[0] == 0
