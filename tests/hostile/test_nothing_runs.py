"""Files of others: nothing in them is imported, unpickled or run unless a flag says that their author is trusted."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import IMAGE, TEXT, save_checkpoint, small_module
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from lightning_clip import ClipModule, InputError
from lightning_clip.checkpoints.parts import write_parts
from lightning_clip.cli import main
from lightning_clip.core import trust
from lightning_clip.core.plugins import _loaded
from lightning_clip.curation import pair_filters
from lightning_clip.data import ShardSource
from lightning_clip.strategies.consolidate import consolidate
from lightning_clip.strategies.safe_parts import check_index

SYNTHETIC = {"name": "synthetic", "size": 40, "image_size": 32}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is made if anything runs: by a module, a command or a pickle."""
    found = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(
        f"import os\nos.makedirs({str(found)!r}, exist_ok=True)\n"
        "from lightning_clip import ClipModule\nclass Model(ClipModule):\n    pass\n"
        "from lightning_clip.curation import Filter\nclass Mine(Filter):\n    reason = 'mine'\n"
        "    def passes(self, samples):\n        return [True for _ in samples]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.modules", {**__import__("sys").modules})
    before = dict(_loaded)
    yield found
    _loaded.clear()
    _loaded.update(before)


def _recipe(folder: Path, **changes: Any) -> str:
    model = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16}
    data = {"train": SYNTHETIC, "local_batch_size": 8}
    given = {"model": model, "data": data, "trainer": {"max_steps": 5, "accelerator": "cpu"}}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            given[section][name] = value
        else:
            given[section] = value
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    return str(folder / "recipe.yaml")


def _refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("lightning-clip: error:") == 1 and "Traceback" not in line
    for word in words:
        assert word in line, line


NAMED = {
    "a model": {"model": {"class_path": "stranger.Model", "init_args": {"image_encoder": IMAGE}}},
    "a model by its name alone": {"model": "stranger.Model"},
    "a callback": {"trainer__callbacks": [{"class_path": "stranger.Model"}]},
    "a callback by its name alone": {"trainer__callbacks": ["stranger.Model"]},
    "a logger": {"trainer__logger": {"class_path": "stranger.Model"}},
    "a strategy": {"trainer__strategy": {"class_path": "stranger.Model"}},
    "an encoder": {"model__image_encoder": {"class_path": "stranger.Model"}},
    "a loss": {"model__objective": {"class_path": "stranger.Model"}},
    "a source": {"data__train": {"class_path": "stranger.Model"}},
    "imports": {"imports": ["stranger"]},
    "the shell": {"model__objective": {"class_path": "subprocess.Popen", "init_args": {"args": ["mkdir", "ran"]}}},
    "a stream": {"data__train": {"name": "pipe:mkdir ran", "samples": 80}, "trainer__max_epochs": 1, "trainer__max_steps": -1},
}


@pytest.mark.parametrize("name", NAMED)
def test_plan_imports_and_runs_nothing(name: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["plan", "--config", _recipe(tmp_path, **NAMED[name])])
    printed = capsys.readouterr()
    assert not mark.exists() and "Traceback" not in printed.err
    assert code == (0 if name == "a source" else 2), printed.err  # no source is opened where the recipe has a number of steps
    assert printed.err.count("lightning-clip: error:") == code // 2


def test_plan_names_the_flags(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe(tmp_path, **NAMED["a model"])
    _refused(capsys, ["plan", "--config", recipe], "'stranger.Model' is named by a file, and plan imports nothing that files")
    _refused(capsys, ["plan", "--config", recipe], "--import stranger, or --trust")
    callback = _recipe(tmp_path, **NAMED["a callback"])
    _refused(capsys, ["plan", "--config", callback], "'stranger.Model' is named by a file", "--import stranger, or --trust")
    assert not mark.exists()


@pytest.mark.parametrize("flag", [["--trust"], ["--import", "stranger"]])
def test_plan_of_a_trusted_author(flag: list[str], mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16}
    recipe = _recipe(tmp_path, model={"class_path": "stranger.Model", "init_args": init})
    assert main(["plan", "--config", recipe, *flag]) == 0, capsys.readouterr().err
    assert mark.exists()


def test_ordinary_recipes_are_planned_and_the_parser_is_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jsonargparse._common import parsing_settings

    def denied() -> object:
        return parsing_settings["import_path_verdicts"], parsing_settings["import_paths_enforced"]

    before = denied()
    callbacks = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}, {"class_path": "lightning_clip.Retrieval"}]
    assert main(["plan", "--config", _recipe(tmp_path, trainer__callbacks=callbacks)]) == 0, capsys.readouterr().err
    assert denied() == before and trust.safe_modules() is None


def test_evaluate_and_curate_run_no_command(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = {"name": "pipe:mkdir ran", "samples": 10}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": {"a": {**stream, "protocols": ["zero_shot"]}}}))
    save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", "--checkpoint", str(tmp_path / "a.ckpt"), "--suite", str(tmp_path / "suite.yaml")])
    assert "stream 'pipe:mkdir ran' runs a command, and evaluate runs nothing that files name" in capsys.readouterr().err
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump({"data": stream, "output": str(tmp_path / "curated")}))
    _refused(capsys, ["data", "curate", "--config", str(tmp_path / "curate.yaml")], "and data curate runs nothing", "--trust")
    assert not mark.exists()


def test_filters_are_classes_that_were_imported(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def curate(name: str, *flags: str) -> list[str]:
        text = yaml.safe_dump({"data": SYNTHETIC, "filters": [name], "output": str(tmp_path / "out"), "pairs_per_shard": 0})
        (tmp_path / "curate.yaml").write_text(text)
        return ["data", "curate", "--config", str(tmp_path / "curate.yaml"), *flags]

    _refused(capsys, curate("stranger.Mine"), "is of a module that is not imported: add --import stranger")
    _refused(capsys, curate("os.system"), "filter 'os.system' is no subclass of Filter")
    assert not mark.exists()
    assert main(curate("stranger.Mine", "--import", "stranger")) == 0 and mark.exists()
    with pytest.raises(InputError, match="is no subclass of Filter: name one, or one of"):
        pair_filters.build({"name": "subprocess.Popen", "args": ["mkdir", "ran"]})


class TestWeights:
    def test_a_checkpoint_may_not_say_that_it_is_trusted(self, mark: Path, tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "bomb": Bomb(mark)}, tmp_path / "base.pt")
        save_checkpoint(tmp_path / "a.ckpt")
        content = torch.load(tmp_path / "a.ckpt", weights_only=True)
        content["hyper_parameters"]["pretrained"] = {"source": str(tmp_path / "base.pt"), "allow_pickle": True}
        torch.save(content, tmp_path / "a.ckpt")
        with pytest.raises(InputError, match="base.pt' holds Python objects, and reading them may run code"):
            ClipModule.load_from_checkpoint(tmp_path / "a.ckpt").configure_model()
        assert not mark.exists()

    def test_timm_reads_no_file(self) -> None:
        with pytest.raises(InputError, match="checkpoint_path .or pretrained_cfg.file. is not read"):
            small_module(image_encoder={"name": "resnet18", "checkpoint_path": "a.pth"}).configure_model()
        with pytest.raises(InputError, match="is not read, as timm would run"):
            small_module(image_encoder={"name": "resnet18", "pretrained_cfg": {"file": "a.pth"}}).configure_model()


class TestConsolidate:
    @pytest.fixture
    def parts(self, tmp_path: Path) -> Path:
        """A sharded checkpoint as torch and Lightning write it, of one tensor and what stands beside it."""
        folder = tmp_path / "parts.ckpt"
        state = {"state_dict": {"weight": torch.arange(6.0)}, "note": "text"}
        _save_state_dict(state, FileSystemWriter(folder, single_file_per_rank=True), no_dist=True)
        torch.save({"lightning_clip_class": "lightning_clip.ClipModule", "global_step": 3}, folder / "meta.pt")
        write_parts(folder, 3)
        return folder

    def test_ordinary_parts_need_no_flag(self, parts: Path) -> None:
        assert torch.equal(consolidate(parts)["state_dict"]["weight"], torch.arange(6.0))

    def test_paths_as_python_3_13_names_them(self, tmp_path: Path) -> None:
        (tmp_path / ".metadata").write_bytes(b"cpathlib._local\nPurePosixPath\n(S'a/b'\ntR.")
        check_index(tmp_path / ".metadata")

    @pytest.mark.parametrize("file", [".metadata", "meta.pt"])
    def test_pickles(self, file: str, parts: Path, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = pickle.dumps(Bomb(mark)) if file == ".metadata" else None
        if content:
            (parts / file).write_bytes(content)
        else:
            torch.save({"bomb": Bomb(mark)}, parts / file)
        command = ["checkpoint", "consolidate", str(parts), "--output", str(tmp_path / "one.ckpt")]
        _refused(capsys, command, "may run code", "if you trust its author, add --allow-pickle")
        assert not mark.exists() and not (tmp_path / "one.ckpt").exists()
        main([*command, "--allow-pickle"])
        assert mark.exists() == (file == ".metadata")  # Lightning never unpickles its own

    def test_what_stands_beside_the_tensors(self, mark: Path, tmp_path: Path) -> None:
        folder = tmp_path / "parts.ckpt"
        _save_state_dict({"note": Bomb(mark)}, FileSystemWriter(folder), no_dist=True)
        torch.save({"lightning_clip_class": "lightning_clip.ClipModule"}, folder / "meta.pt")
        with pytest.raises(InputError, match="reading its parts may run code"):
            consolidate(folder)
        assert not mark.exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

    def test_deepspeed(self, mark: Path, tmp_path: Path) -> None:
        (tmp_path / "parts.ckpt/checkpoint").mkdir(parents=True)
        torch.save({"bomb": Bomb(mark)}, tmp_path / "parts.ckpt/checkpoint/mp_rank_00_model_states.pt")
        with pytest.raises(InputError, match="DeepSpeed's files may run code when they are read: if you trust its author"):
            consolidate(tmp_path / "parts.ckpt")
        assert not mark.exists()


@pytest.mark.parametrize("url", ["reference://0.tar", "zip://0.tar::http://host/a.zip"])
def test_no_file_system_inside_another(url: str) -> None:
    """References are templates, caches once were pickles."""
    with trust.restricted("evaluate"), pytest.raises(InputError, match=r"reads one file system by another.*add --trust"):
        ShardSource(url, storage_options={"fo": "http://host/references.json"})
