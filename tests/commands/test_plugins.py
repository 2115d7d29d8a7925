"""Plug-ins on the command line: one file of a user's own through every command, and what can be wrong with it."""

from __future__ import annotations

import multiprocessing
import operator
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands.plugins import isolated
from PIL import Image
from small import TEXT, save_checkpoint, small_module

from lightning_clip.cli import main
from lightning_clip.core.plugins import PLUGINS_KEY, load_plugin, loaded_plugins, missing_plugins

MINE = Path(__file__).parent / "everything.py"
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.py, recipes/recipe.yaml that imports it, and what `fit` left: run/last.ckpt, run/config.yaml."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copy(MINE, folder / "mine.py")
    (folder / "recipes").mkdir()
    recipe = {
        "imports": ["../mine.py"],
        "model": {
            "image_encoder": "mean_colour_of_mine",
            "text_encoder": TEXT,
            "embed_dim": 8,
            "objective": "distance_of_mine",
            "tokenizer": {"name": "clip", "context_length": 16},
            "training": {"optimizer": {"warmup_steps": 0}},
        },
        "data": {"train": {"name": "greys_of_mine", "size": 16}, "test": "greys_of_mine", "local_batch_size": 8},
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "run"),
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": str(folder / "run"), "filename": "last"},
                }
            ],
        },
    }
    (folder / "recipes/recipe.yaml").write_text(yaml.safe_dump(recipe))
    with isolated(folder), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "recipes/recipe.yaml"]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which `fit` ran is the current one, and no plug-in is imported."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("COLUMNS", "150")
    with isolated(trained):
        yield trained


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder is the current one."""
    monkeypatch.chdir(tmp_path)
    with isolated(tmp_path):
        yield tmp_path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with code 2 and one line, which is returned."""

    def command(*arguments: str) -> str:
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return command


def checkpoint(folder: Path) -> str:
    return str(folder / "run/last.ckpt")


class TestEveryKind:
    def test_tower_loss_and_source_in_fit(self, folder: Path) -> None:
        kept = yaml.safe_load((folder / "run/config.yaml").read_text())
        assert kept["imports"] == [str(folder / "mine.py")]
        weights = torch.load(checkpoint(folder), weights_only=True)["state_dict"]
        assert weights["model.image_encoder.layer.weight"].shape == (8, 3)

    def test_the_kept_recipe_runs_again_from_anywhere(self, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        again = ("--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks=null")
        assert main(["fit", "--config", str(folder / "run/config.yaml"), *again]) == 0

    def test_test_with_the_flag(self, folder: Path) -> None:
        recipe = ("--config", "recipes/recipe.yaml", "--ckpt_path", checkpoint(folder))
        assert main(["test", "--import=mine.py", *recipe]) == 0

    def test_plan(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "--config", "recipes/recipe.yaml", "--import", "mine.py", "--device=l4"]) == 0
        assert "Plan of recipes/recipe.yaml" in capsys.readouterr().out

    def test_classify(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "picture.png")
        labels = ("--labels", "dark,bright", "--checkpoint", checkpoint(folder))
        assert main(["classify", "picture.png", *labels, "--import", "mine.py"]) == 0
        assert "bright" in capsys.readouterr().out

    def test_protocol_and_its_part_of_the_report(self, folder: Path) -> None:
        dataset = {"name": "greys_of_mine", "size": 12, "protocols": ["zero_shot", "spread_of_mine"]}
        (folder / "suite.yaml").write_text(yaml.safe_dump({"sets": {"greys": dataset}, "output": "evaluation"}))
        arguments = ("--suite", "suite.yaml", "--checkpoint", checkpoint(folder), "--import", "mine")
        assert main(["evaluate", *arguments]) == 0
        page = (folder / "evaluation/report.html").read_text()
        assert "greys, spread: how far features of mine lie apart" in page

    def test_source_in_inspect(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--data", "greys_of_mine", "--set", "size=10", "--output", "sheet.png")
        assert main(["data", "inspect", *arguments, "--import", "mine.py"]) == 0
        assert "32 x 32 pixels" in capsys.readouterr().out and (folder / "sheet.png").exists()

    def test_filter(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        settings = {"data": "greys_of_mine", "output": "curated", "filters": ["dark_of_mine"], "pairs_per_shard": 0}
        (folder / "curate.yaml").write_text(yaml.safe_dump(settings))
        assert main(["data", "curate", "--config", "curate.yaml", "--import", "mine.py"]) == 0
        printed = capsys.readouterr().out
        assert "brighter than I like" in printed and "12 of 24 pairs kept" in printed

    def test_export_format(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = (checkpoint(folder), "--format", "parts_of_mine", "--output", "exported", "--import", "mine.py")
        assert main(["export", *arguments]) == 0
        assert "images differ by at most 0.0e+00" in capsys.readouterr().out
        assert (folder / "exported/parts.pt").exists()


class TestInstalled:
    """Packages with an entry point, as `pip install` leaves them."""

    @pytest.fixture
    def package(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        place = empty / "site"
        (place / "mine_of_all").mkdir(parents=True)
        shutil.copy(MINE, place / "mine_of_all/__init__.py")
        note = place / "mine_of_all-1.0.dist-info"
        note.mkdir()
        (note / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-of-all\nVersion: 1.0\n")
        (note / "entry_points.txt").write_text("[lightning_clip.plugins]\nall = mine_of_all\n")
        monkeypatch.syspath_prepend(str(place))
        return place

    def test_commands_find_it(self, package: Path, empty: Path) -> None:
        assert main(["data", "inspect", "--data", "greys_of_mine", "--output", "sheet.png"]) == 0
        assert loaded_plugins() == ["mine_of_all"]

    def test_python_finds_it(self, package: Path) -> None:
        assert small_module(image_encoder="mean_colour_of_mine").model.tower("image").output_dim == 8

    def test_one_that_fails_names_its_package(self, package: Path, refused: Refused) -> None:
        (package / "mine_of_all/__init__.py").write_text("import nothing_of_that_name\n")
        line = refused("data", "inspect", "--data", "synthetic")
        assert "plug-in 'mine_of_all' failed on import: site/mine_of_all/__init__.py, line 1: ModuleNotFoundError" in line
        assert "of the installed package mine-of-all: mend or uninstall it" in line

    def test_help_imports_nothing(self, package: Path) -> None:
        with pytest.raises(SystemExit) as left:
            main(["data", "inspect", "--help"])
        assert left.value.code == 0 and "mine_of_all" not in sys.modules


class TestModules:
    """Files and packages as modules."""

    def test_once_and_under_its_own_name(self, empty: Path) -> None:
        (empty / "once.py").write_text("class Thing:\n    def value(self):\n        return 7\n")
        assert load_plugin("once.py") == load_plugin("./once.py") == str(empty / "once.py")
        assert loaded_plugins() == ["once.py"] and "once" in sys.modules

    def test_spawned_processes_find_its_classes(self, empty: Path) -> None:
        (empty / "thing_of_mine.py").write_text("class Thing:\n    def value(self):\n        return 7\n")
        load_plugin("thing_of_mine.py")
        thing = sys.modules["thing_of_mine"].Thing()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(operator.methodcaller("value"), (thing,)) == 7

    def test_a_package_by_its_folder_or_name(self, empty: Path) -> None:
        (empty / "inner/pack_of_mine").mkdir(parents=True)
        (empty / "inner/pack_of_mine/__init__.py").write_text("from . import part\n")
        (empty / "inner/pack_of_mine/part.py").write_text("")
        load_plugin("inner/pack_of_mine")
        assert loaded_plugins() == ["inner/pack_of_mine"] and "pack_of_mine.part" in sys.modules
        assert missing_plugins(["pack_of_mine", "inner/pack_of_mine/__init__.py", "pack_of_mine.other"]) == [
            "pack_of_mine.other"
        ]

    def test_what_was_imported_in_another_way_is_not_missing(self, empty: Path) -> None:
        (empty / "other_way.py").write_text("")
        sys.path.append(str(empty))
        assert missing_plugins(["other_way.py"]) == ["other_way.py"]
        __import__("other_way")
        assert missing_plugins(["other_way.py", "gone/other_way.py"]) == ["gone/other_way.py"] and loaded_plugins() == []


class TestMistakes:
    def test_a_module_that_is_not_there(self, empty: Path, refused: Refused) -> None:
        line = refused("data", "inspect", "--data", "synthetic", "--import", "my_packege.towers")
        assert "plug-in 'my_packege.towers' is not there: no module 'my_packege' is installed or in" in line
        assert "Name a module, or the path of a .py file" in line

    def test_a_file_that_is_not_there(self, empty: Path, refused: Refused) -> None:
        (empty / "mine.py").write_text("")
        line = refused("data", "inspect", "--data", "synthetic", "--import", "mein.py")
        assert "plug-in 'mein.py' does not exist. In '.': did you mean 'mine.py'" in line

    @pytest.mark.parametrize("command", ["data inspect --data synthetic", "fit", "evaluate --suite s.yaml --checkpoint c"])
    def test_a_module_that_fails(self, command: str, empty: Path, refused: Refused) -> None:
        (empty / "broken.py").write_text("import math\n\n\ndef half():\n    return 1 / 0\n\n\nHALF = half()\n")
        line = refused(*command.split(), "--import", "broken.py")
        assert line.endswith("plug-in 'broken.py' failed on import: broken.py, line 5: ZeroDivisionError: division by zero")

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("x = 1\ny = (\n", "broken.py, line 2: SyntaxError: '(' was never closed"),
            ("import json\njson.loads('')\n", "broken.py, line 2: JSONDecodeError: Expecting value"),
            ("import sys\nsys.exit(3)\n", "broken.py, line 2: SystemExit: 3"),
            ("import not_installed_here\n", "broken.py, line 1: ModuleNotFoundError: No module named 'not_installed_here'"),
        ],
    )
    def test_the_line_is_the_plugins_own(self, code: str, said: str, empty: Path, refused: Refused) -> None:
        (empty / "broken.py").write_text(code)
        line = refused("prompts", "show", "--import", "broken.py")
        assert f"plug-in 'broken.py' failed on import: {said}" in line

    def test_one_name_of_two_modules(self, empty: Path, refused: Refused) -> None:
        shutil.copy(MINE, empty / "first.py")
        lines = (
            "from first import DistanceLoss\n\n\n@losses.register('distance_of_mine')\nclass Mine(DistanceLoss):\n    pass\n"
        )
        (empty / "second.py").write_text("from lightning_clip.losses import losses\n" + lines)
        line = refused("prompts", "show", "--import", "first.py", "--import", "second.py")
        own = 5 if sys.version_info >= (3, 11) else 6  # of the decorator, of the class
        assert f"plug-in 'second.py' failed on import: second.py, line {own}: loss 'distance_of_mine' is registered" in line
        assert "by first.DistanceLoss and by second.Mine: rename one" in line

    def test_a_name_that_is_built_in(self, empty: Path, refused: Refused) -> None:
        shutil.copy(MINE, empty / "mine.py")
        (empty / "mine.py").write_text(MINE.read_text().replace('"distance_of_mine"', '"softmax"'))
        line = refused("prompts", "show", "--import", "mine.py")
        assert "'softmax' is registered twice, by lightning_clip.losses.softmax.SoftmaxContrastiveLoss and by mine." in line

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("json.py", "json.py' has the name of another module, '.*json/__init__.py': rename one of the two"),
            ("my-file.py", "my-file.py' cannot be a module: rename it to letters, digits and underscores"),
            ("my-package", "plug-in 'my-package' must be a module such as my_package.towers, or the path of a .py file"),
            ("empty/", "plug-in 'empty/' must be a .py file, or the folder of a package with __init__.py"),
        ],
    )
    def test_names(self, name: str, said: str, empty: Path) -> None:
        (empty / "empty").mkdir()
        for file in ("json.py", "my-file.py"):
            (empty / file).write_text("")
        with pytest.raises(ValueError, match=said):
            load_plugin(name)

    def test_two_files_of_one_name(self, empty: Path) -> None:
        for folder in ("one", "two"):
            (empty / folder).mkdir()
            (empty / folder / "same_of_mine.py").write_text("")
        load_plugin("one/same_of_mine.py")
        with pytest.raises(ValueError, match="two/same_of_mine.py' has the name of another module, .*one/same_of_mine.py'"):
            load_plugin("two/same_of_mine.py")

    def test_the_flag_alone(self, empty: Path, refused: Refused) -> None:
        assert refused("fit", "--import").endswith("--import needs a module or the path of a .py file")

    @pytest.mark.parametrize("command", ["validate", "test", "predict", "plan"])
    def test_a_recipe_that_asks_others_than_fit(self, command: str, folder: Path, refused: Refused) -> None:
        line = refused(command, "--config", "recipes/recipe.yaml")
        assert "recipe 'recipes/recipe.yaml' asks for imports, which only `lightning-clip fit` does by itself" in line
        assert line.endswith("add --import mine.py") and "mine" not in sys.modules

    @pytest.mark.parametrize(
        "command", ["evaluate --checkpoint x --suite asks.yaml", "soup a b --suite asks.yaml --output o.ckpt"]
    )
    def test_a_suite_that_asks(self, command: str, empty: Path, refused: Refused) -> None:
        (empty / "asks.yaml").write_text(
            "imports: [mine_of_nobody, sub/mine.py]\nsets: {x: {name: synthetic, protocols: [retrieval]}}\n"
        )
        line = refused(*command.split())
        assert "suite 'asks.yaml' asks for imports" in line
        assert line.endswith("add --import mine_of_nobody --import sub/mine.py")

    def test_a_curation_that_asks(self, empty: Path, refused: Refused) -> None:
        (empty / "asks.yaml").write_text("imports: [mine_of_nobody]\ndata: synthetic\n")
        assert "config 'asks.yaml' asks for imports" in refused("data", "curate", "--config", "asks.yaml")

    def test_no_list(self, empty: Path, refused: Refused) -> None:
        (empty / "recipe.yaml").write_text("imports: mine.py\n")
        line = refused("fit", "--config", "recipe.yaml")
        assert "recipe 'recipe.yaml': imports 'mine.py' must be a list of modules and paths of .py files" in line

    def test_an_unknown_name_tells_of_the_flag(self, folder: Path, refused: Refused) -> None:
        recipe = yaml.safe_load((folder / "recipes/recipe.yaml").read_text())
        del recipe["imports"]
        (folder / "alone.yaml").write_text(yaml.safe_dump(recipe))
        line = refused("fit", "--config", "alone.yaml", "--model.objective=softmax", "--model.image_encoder=resnet10t")
        assert "nor one of a module that --import names, nor a path) 'greys_of_mine' does not exist" in line
        line = refused("data", "curate", "--data=synthetic", "--filters=[dark_of_mine]")
        assert "unknown filter 'dark_of_mine'" in line
        assert line.endswith("If a module of yours registers it, add --import MODULE_OR_FILE.py")


class TestCheckpoints:
    def test_one_whose_plugin_is_missing(self, folder: Path, refused: Refused) -> None:
        assert torch.load(checkpoint(folder), weights_only=True)[PLUGINS_KEY] == ["mine.py"]
        line = refused("export", "run/last.ckpt", "--format", "safetensors", "--output", "nothing")
        assert re.search("'run/last.ckpt' needs (image encoder|loss) '[a-z_]+_of_mine' of a plug-in that is not imported", line)
        assert line.endswith("add --import mine.py (in Python: import it first)")

    def test_one_of_a_class_in_a_plugin(self, empty: Path, refused: Refused) -> None:
        (empty / "domain_of_mine.py").write_text(
            "from lightning_clip import ClipModule\n\n\nclass Domain(ClipModule):\n    pass\n"
        )
        load_plugin("domain_of_mine.py")
        module = small_module()
        module.__class__ = sys.modules["domain_of_mine"].Domain
        save_checkpoint(empty / "domain.ckpt", module)
        del sys.modules["domain_of_mine"]
        line = refused("export", "domain.ckpt", "--format", "safetensors", "--output", "nothing")
        assert "was written by domain_of_mine.Domain, which is not imported: add --import domain_of_mine" in line
        arguments = (
            "export",
            "domain.ckpt",
            "--format",
            "safetensors",
            "--output",
            "exported",
            "--import",
            "domain_of_mine.py",
        )
        assert main(arguments) == 0
