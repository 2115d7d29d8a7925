"""Recipes by name: every command that takes one, from any folder, and the command that lists and copies them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_clip.cli import main
from lightning_clip.commands.compare import _recipes
from lightning_clip.commands.recipe import read_recipe
from lightning_clip.core import shipped
from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.recipe_paths import recipe_path, with_recipe_paths
from lightning_clip.core.shipped import recipe_names, recipes_folder, shipped_recipe, shipped_recipes
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.data.words import read_synonyms
from lightning_clip.evaluation.suite import BUILT_IN, Suite

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which there is nothing, least of all recipes/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo", "recipes/demo.yaml"])
def test_a_recipe_by_its_name(name: str) -> None:
    assert recipe_path(name) == recipes_folder() / "demo.yaml"


def test_a_file_of_ones_own_comes_first_and_a_folder_does_not(elsewhere: Path) -> None:
    (elsewhere / "demo").mkdir()  # as a run of the demo leaves it
    assert recipe_path("demo") == recipes_folder() / "demo.yaml"
    (elsewhere / "demo.yaml").write_text("model: {}")
    assert recipe_path("demo.yaml") == Path("demo.yaml")


def test_a_name_that_is_none() -> None:
    with pytest.raises(InputError, match=r"recipe 'demmo' is neither a file nor the name of a recipe: did you mean 'demo'"):
        recipe_path("demmo")
    with pytest.raises(InputError, match=r"lightning-clip recipes lists those"):
        recipe_path("qqqqqq")
    with pytest.raises(InputError, match=r"recipe 'mine/demo.yaml' does not exist: there is no folder 'mine'"):
        recipe_path("mine/demo.yaml")
    with pytest.raises(InputError, match="neither a file"):
        recipe_path("adapt")  # a folder, where one recipe is asked for


def test_arguments_of_the_trainers_commands() -> None:
    folder = recipes_folder()
    given = ["fit", "--config", "demo", "-c=adapt/lora", "--data.seed=1", "--config"]
    assert with_recipe_paths(given) == [
        "fit", f"--config={folder}/demo.yaml", f"--config={folder}/adapt/lora.yaml", "--data.seed=1", "--config"
    ]  # fmt: skip


def test_recipes_that_refer_to_files_beside_them_are_read_from_any_folder() -> None:
    recipe = read_recipe(["efficiency/scenes/base", "recipes/efficiency/scenes/pairs.yaml"])
    assert recipe.module.tokenizer.vocab_size > 100
    assert read_synonyms("recipes/hashtags/synonyms.txt", ",")


def test_other_commands_take_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", "data")  # a recipe asks for it
    assert set(Suite.read("evaluation/scenes").sets) == set(Suite.read("recipes/evaluation/scenes.yaml").sets)
    assert set(_recipes(["efficiency/scenes", "demo"])) == {"captioning", "pairs", "words", "demo"}
    assert read_mapping("curation/fashion_small", "config") == read_mapping("recipes/curation/fashion_small.yaml", "config")


def test_paths_of_the_documentation_hold_everywhere_and_no_others() -> None:
    assert existing_path("recipes/demo.yaml", "recipe") == recipes_folder() / "demo.yaml"
    for path in ("recipes/../pyproject.toml", "recipes/none.yaml", "/recipes/demo.yaml"):
        with pytest.raises(InputError, match="does not exist"):
            existing_path(path, "recipe")


def test_the_package_brings_its_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel holds them inside the package, where they are looked for first."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'wheel.force-include\]\n"recipes" = "lightning_clip/recipes"\n', pyproject)
    inside = tmp_path / "lightning_clip" / "recipes" / "demo.yaml"
    inside.parent.mkdir(parents=True)
    inside.write_text("# A recipe.\n# Takes a second.\n")
    monkeypatch.setattr(shipped, "_PACKAGE", inside.parent.parent)
    assert recipe_names() == ["demo"] and recipe_path("demo") == inside
    assert next(shipped_recipes())[:3] == ("demo", "A recipe.", "a second")


def test_every_recipe_says_what_it_is() -> None:
    found = {recipe.name: recipe for recipe in shipped_recipes()}
    assert len(found) == len(list((ROOT / "recipes").rglob("*.yaml"))) > 60
    for recipe in found.values():
        assert len(recipe.summary) > 15 and "lightning-clip " not in recipe.summary, recipe.name
    assert all(recipe.time for name, recipe in found.items() if "/" not in name)


@pytest.mark.parametrize("width", [80, 120])
def test_list(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("demo ") and "…" not in "".join(lines)
    assert all(len(line.rstrip()) <= width for line in lines[:-3])
    assert "adapt (7)" in lines[-1] and "lightning-clip fit --config demo" in lines[-3]
    assert main(["recipes", "list", "recipes/adapt/"]) == 0
    out = capsys.readouterr().out
    assert "adapt/lora" in out and "flickr8k" not in out and "fit --config adapt/cifar10" in out


def test_copy(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", "demo"]) == 0
    assert "run it: lightning-clip fit --config demo.yaml" in capsys.readouterr().out
    assert yaml.safe_load((elsewhere / "demo.yaml").read_text()) == yaml.safe_load((ROOT / "recipes/demo.yaml").read_text())
    assert main(["recipes", "copy", "evaluation/scenes", "--output", "mine/"]) == 0
    assert "evaluate --suite mine/scenes.yaml" in capsys.readouterr().out and (elsewhere / "mine/scenes.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copy"], "needs a name"),
        (["copy", "demmo"], "no recipe is called 'demmo': did you mean 'demo'"),
        (["copy", "adapt"], "is a folder of recipes: name one of adapt/cifar10, adapt/clip_adapter"),
        (["copy", "demo"], "'demo.yaml' exists and is never replaced: name another file with --output"),
        (["list", "demmo"], "no recipe and no folder of recipes is called 'demmo': did you mean 'demo'"),
        (["--output", "x"], "--output is for a copy"),
    ],
)
def test_mistakes(arguments: list[str], message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "demo.yaml").write_text("mine")
    assert main(["recipes", *arguments]) == 2
    assert message in capsys.readouterr().err and (elsewhere / "demo.yaml").read_text() == "mine"


def test_the_pages_name_recipes_as_they_are_found_everywhere() -> None:
    """By the short name, which holds without a clone of the repository, too; recipes say so of themselves as well."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.yaml")]
    texts = {page: page.read_text("utf-8").replace("\\\n", " ") for page in pages}
    flag = r"--(?:config|base|suite)[ =]([a-z][\w/+]*)(?![\w/+.])"  # what ends in .yaml is the reader's own
    named = [(page.name, name) for page, text in texts.items() for name in re.findall(flag, text)]
    unknown = [(page, name) for page, name in named if shipped_recipe(name) is None and name not in BUILT_IN]
    assert len(named) > 100 and not unknown
    long = [page.name for page, text in texts.items() if re.search(r"(--(config|base|suite)[ =]|compare )recipes/", text)]
    assert not long
