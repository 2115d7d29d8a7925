"""`lightning-clip checkpoint consolidate`: a folder of parts becomes one file, which every strategy reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.load import _METADATA_FILENAME
from small import small_data, small_module, small_trainer
from strategies.ranks import OPTIMIZER, alone, assert_same, fit

from lightning_clip import ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.strategies.consolidate import consolidate


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder that two ranks wrote after two steps, and its weights."""
    folder = tmp_path_factory.mktemp("parts")
    found = fit(folder, strategy={"sharded_checkpoint": True}, max_steps=2, save=folder / "half.ckpt")
    return folder / "half.ckpt", found["weights"]


def command(*arguments: object) -> int:
    return main(["checkpoint", "consolidate", *map(str, arguments)])


class TestOneFile:
    def test_loads_with_no_arguments(
        self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, weights = written
        assert command(folder, "--output", tmp_path / "one.ckpt") == 0
        assert "optimizer's state included, step 2" in capsys.readouterr().out
        loaded = ClipModule.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
        assert_same(dict(loaded.state_dict()), weights)
        assert [path.name for path in tmp_path.iterdir()] == ["one.ckpt"]

    def test_one_process_goes_on_with_it(self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
        """With the optimizer's moments: it ends where the whole run ends."""
        torch.save(consolidate(written[0]), tmp_path / "one.ckpt")
        module = small_module(optimizer=OPTIMIZER)
        trainer = small_trainer(tmp_path, max_steps=4)
        trainer.fit(module, small_data(size=32, batch=16), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
        assert_same(dict(module.state_dict()), alone(tmp_path, max_steps=4))


class TestRefused:
    def test_loading_the_folder_names_the_command(self, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
        with pytest.raises(
            InputError, match=r"a folder of parts .* lightning-clip checkpoint consolidate .*half.ckpt --output"
        ):
            ClipModule.load_from_checkpoint(written[0])

    def test_another_strategy_that_resumes(self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
        with pytest.raises(InputError, match=r"half.ckpt' is a folder, which only the strategy .* consolidate .*half.ckpt --"):
            small_trainer(tmp_path, max_steps=4).fit(small_module(), small_data(size=32, batch=16), ckpt_path=written[0])

    def test_output_that_exists(
        self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.ckpt").write_text("mine")
        assert command(written[0], "--output", tmp_path / "mine.ckpt") == 2
        assert "mine.ckpt' exists and is never replaced" in capsys.readouterr().err
        assert (tmp_path / "mine.ckpt").read_text() == "mine"

    def test_output_in_no_folder(
        self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command(written[0], "--output", tmp_path / "none" / "one.ckpt") == 2
        assert "there is no folder" in capsys.readouterr().err

    def test_parts_that_are_missing(self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
        shutil.copytree(written[0], tmp_path / "cut.ckpt")
        (tmp_path / "cut.ckpt" / "__1_0.distcp").unlink()
        with pytest.raises(InputError, match=r"cut.ckpt' is not complete: .* Copy the whole folder"):
            consolidate(tmp_path / "cut.ckpt")

    def test_another_module(self, tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
        shutil.copytree(written[0], tmp_path / "other.ckpt")
        torch.save({"epoch": 0}, tmp_path / "other.ckpt" / _METADATA_FILENAME)
        with pytest.raises(InputError, match="was not written by a ClipModule"):
            consolidate(tmp_path / "other.ckpt")

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is no checkpoint in parts: give the folder"):
            consolidate(tmp_path)

    def test_one_file(self, tmp_path: Path) -> None:
        (tmp_path / "last.ckpt").write_text("whole")
        with pytest.raises(InputError, match="is one file already"):
            consolidate(tmp_path / "last.ckpt")

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            consolidate(tmp_path / "none.ckpt")
