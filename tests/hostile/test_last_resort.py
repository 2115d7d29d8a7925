"""Whatever escapes a command is one line with an exit code; the Trainer's own errors say what to do."""

from __future__ import annotations

import errno
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_clip import cli
from lightning_clip.cli import main
from lightning_clip.core.errors import InputError

Refuses = Callable[..., None]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets every command end with an error."""

    def fail_with(error: BaseException) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "import_plugins", fail)

    return fail_with


class TestFaults:
    @pytest.mark.parametrize("error", [TypeError("a\nb"), RecursionError("deep"), AttributeError("x"), AssertionError()])
    def test_are_one_line_and_exit_code_70(
        self, error: Exception, failing: Callable[[BaseException], None], command: Command
    ) -> None:
        failing(error)
        code, said = command("prompts", "show")
        assert code == 70 and len(said.splitlines()) == 1
        assert f"error: {type(error).__name__}: " in said
        assert "this is a fault of lightning_clip, run with LIGHTNING_CLIP_TRACEBACK=1" in said or "raised by" in said

    def test_show_the_traceback_where_that_is_asked_for(
        self, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LIGHTNING_CLIP_TRACEBACK", "1")
        failing(KeyError("inside"))
        with pytest.raises(KeyError, match="inside"):
            main(["prompts", "show"])
        failing(InputError("a mistake"))
        with pytest.raises(InputError, match="a mistake"):
            main(["prompts", "show"])

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "'out.csv': the disk is full: make room"),
            (PermissionError(errno.EACCES, "Permission denied", "out"), "'out': Permission denied: choose another place"),
            (OSError(errno.EROFS, "Read-only file system", "out"), "'out': the file system can only be read"),
            (OSError(errno.EMFILE, "Too many open files"), "raise the limit of open files"),
            (FileExistsError(errno.EEXIST, "File exists", "out"), "'out': File exists"),
            (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "the disk is full"),
            (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 128 vs 0"), "the disk is full"),
            (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
            (MemoryError(), "the memory is full"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried"), "memory is full: set a smaller local_batch_size"),
        ],
    )
    def test_of_the_machine_are_mistakes_of_nobody(
        self, error: Exception, message: str, failing: Callable[[BaseException], None], refuses: Refuses
    ) -> None:
        failing(error)
        refuses("prompts", "show", match=message)

    @pytest.mark.usefixtures("own_names")
    def test_of_a_plug_in_name_its_line(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "mine_that_fails.py").write_text(
            "from lightning_clip.data import PairSource, pair_sources\n"
            "@pair_sources.register('failing_of_mine')\n"
            "class Failing(PairSource):\n"
            "    def __len__(self):\n"
            "        return {}['a key']\n"
            "    def __getitem__(self, index):\n"
            "        pass\n"
        )
        flags = ("--import", str(tmp_path / "mine_that_fails.py"), "--data", "failing_of_mine")
        code, said = command("data", "inspect", *flags, "--output", str(tmp_path / "sheet.png"))
        assert code == 70 and "mine_that_fails.py, line 5; run with LIGHTNING_CLIP_TRACEBACK=1" in said


class TestTrainer:
    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--trainer.strategy=fsdp3", "unknown strategy 'fsdp3': .*clip_fsdp2"),
            ("--trainer.strategy=fsdp", "use 'clip_fsdp2'"),
            (
                "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/loss, "
                "check_on_train_epoch_end: true}}]",
                "EarlyStopping asks for 'val/loss', which is not measured yet.*There are: .*train/loss",
            ),
        ],
    )
    def test_says_what_to_do(self, flag: str, message: str, trained: Path, refuses: Refuses) -> None:
        more = ("--trainer.limit_val_batches=0", "--trainer.max_steps=2", "--trainer.max_epochs=1")
        refuses("fit", "--config", str(trained / "recipe.yaml"), flag, *more, match=message)

    def test_names_the_package_of_a_logger(self, trained: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
        from lightning.pytorch.loggers import wandb

        monkeypatch.setattr(wandb, "_WANDB_AVAILABLE", _Absent())
        logger = "--trainer.logger={class_path: lightning.pytorch.loggers.WandbLogger}"
        refuses("fit", "--config", str(trained / "recipe.yaml"), logger, match="not installed: pip install wandb")


class _Absent:
    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "DistributionNotFound: The 'wandb' distribution was not found and is required by the application"


class _Runs:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w').write('ran')",)


@pytest.fixture(scope="module")
def checkpoints(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of hostile and foreign files by name; `ran` would stand beside them if one was executed."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    whole = torch.load(trained / "last.ckpt", weights_only=True)
    evil = _Runs(tmp_path / "ran")
    torch.save({**whole, "callbacks": {"evil": evil}}, tmp_path / "code.ckpt")
    torch.save(evil, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(evil))
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    content = (trained / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    for name, change in {
        "loops": {"loops": 3},
        "version": {"pytorch-lightning_version": 3},
        "state": {"state_dict": {"model.logit_scale": "warm"}},
        "numbers": {"state_dict": {3: torch.zeros(1)}},
        "class": {"lightning_clip_class": 3},
        "inner_loops": {"loops": {"fit_loop": 3}},
        "optimizers": {"optimizer_states": [{"state": 3, "param_groups": "x"}]},
        "towers": {"hyper_parameters": {"towers": 3, "embed_dim": -5}},
    }.items():
        torch.save({**whole, **change}, tmp_path / f"{name}.ckpt")
    return tmp_path


NAMES = ["code", "legacy", "pickle", "foreign", "list", "text", "empty", "cut", "loops", "version", "state", "numbers", "class"]
QUICK = ("code", "legacy", "foreign", "cut", "loops", "towers")


def cases(*names: str) -> list[Any]:
    """One of each kind, and all of them with -m slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", cases(*NAMES, "inner_loops", "optimizers"))
def test_going_on_with_a_hostile_checkpoint(name: str, checkpoints: Path, trained: Path, refuses: Refuses) -> None:
    path = str(checkpoints / f"{name}.ckpt")
    recipe = ("--config", str(trained / "recipe.yaml"), "--trainer.max_steps=4")
    refuses("fit", *recipe, "--ckpt_path", path, match=rf"checkpoint .*{name}\.ckpt|the optimizer's state in the checkpoint")
    assert not (checkpoints / "ran").exists()


@pytest.mark.parametrize(("kind", "name"), [("validate", "code"), ("test", "pickle"), ("predict", "foreign")])
def test_evaluating_a_hostile_checkpoint(
    kind: str, name: str, checkpoints: Path, trained: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoints)
    refuses(kind, "--config", str(trained / "recipe.yaml"), "--ckpt_path", f"{name}.ckpt", match=r"^(?!.*weights_only)")
    assert not (checkpoints / "ran").exists()


def _commands(path: str, folder: Path) -> dict[str, tuple[str, ...]]:
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump({"sets": {"s": {"name": "synthetic", "size": 8, "protocols": ["zero_shot"]}}}))
    return {
        "evaluate": ("evaluate", "--checkpoint", path, "--suite", str(suite), "--output", str(folder / "out")),
        "classify": ("classify", str(folder / "no.png"), "--labels", "a,b", "--checkpoint", path),
        "export": ("export", path, "--format", "safetensors", "--output", str(folder / "export")),
        "interpolate": ("interpolate", path, path, "--alpha", "0.5", "--output", str(folder / "mixed.ckpt")),
        "soup": ("soup", path, path, "--method", "uniform", "--output", str(folder / "mixed.ckpt")),
        "merge": ("checkpoint", "merge", path, str(folder / "merged.ckpt")),
        "consolidate": ("checkpoint", "consolidate", path, "--output", str(folder / "whole.ckpt")),
        "search": ("prompts", "search", "--checkpoint", path, "--suite", str(suite), "--output", str(folder / "p.yaml")),
    }


@pytest.mark.parametrize("name", cases(*NAMES, "towers"))
def test_every_command_refuses_it(name: str, checkpoints: Path, refuses: Refuses) -> None:
    path = str(checkpoints / f"{name}.ckpt")
    for kind, arguments in _commands(path, checkpoints).items():
        if name in ("loops", "version") and kind != "consolidate":  # nothing that these read of it is wrong
            continue
        refuses(*arguments, match=r"^(?!.*weights_only).")
    assert not (checkpoints / "ran").exists()
