"""Every recipe builds its model and data, and has its page in the documentation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from corners import corners
from small import small_trainer, write_folder
from tasks.labelled import write_cifar10

from lightning_clip import ClipModule
from lightning_clip.commands.train import ClipCLI

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


class _OnlyBuild(ClipCLI):
    """Parses and instantiates, without running; what needs a GPU in a recipe is built for a CPU."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def build(recipe: Path, *overrides: str) -> Any:
    return _OnlyBuild(["fit", "--config", str(recipe), "--trainer.accelerator=cpu", "--trainer.num_nodes=1", *overrides])


@pytest.fixture(scope="module")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What recipes that adapt a model begin with: the model of recipes/flickr8k.yaml, untrained."""
    model = yaml.safe_load((ROOT / "recipes/flickr8k.yaml").read_text())["model"]
    trainer = small_trainer(tmp_path_factory.mktemp("base"))
    trainer.strategy.connect(module := ClipModule(**model))
    module.configure_model()
    path = tmp_path_factory.mktemp("base") / "base.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the files that recipes name, of the same columns."""
    import json

    from lightning_clip.data import pair_sources, train_tokenizer
    from lightning_clip.data.pack_shards import pack_shards

    for folder, images, columns in (
        ("flickr8k", "images_144.tar", ("en", "zh_human")),
        ("cxr_covid", "images_224.tar", ("clinical_notes",)),
        ("fashion_small", "images.tar", ("title",)),
    ):
        table = write_folder(tmp_path / folder, count=9)
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        for number, row in enumerate(rows):
            row |= {"split": ("train", "val", "test")[number % 3], "modality": "X-ray"}
            kind = ("Shirts", "Tops")[number // 3 % 2]
            row |= {
                **dict.fromkeys((*columns, "description"), row["caption"]),
                "attributes": {"articleType": kind, "subCategory": "Topwear", "baseColour": "Grey", "usage": "Sports"},
            }
        table.write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / folder / images).mkdir()
    pack_shards(pair_sources.build(str(tmp_path / "flickr8k")), str(tmp_path / "train-%06d.tar"))
    train_tokenizer(["一只狗"] * 3, 300).save(str(tmp_path / "tokenizer.json"))
    write_cifar10(tmp_path / "cifar10")
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", str(tmp_path))
    monkeypatch.setenv("LIGHTNING_CLIP_SHARDS", str(tmp_path / "train-{000000..000000}.tar"))
    monkeypatch.setenv("LIGHTNING_CLIP_TEXTS", str(tmp_path / "flickr8k" / "captions.jsonl"))
    monkeypatch.setenv("LIGHTNING_CLIP_TOKENIZER", str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_builds(recipe: Path, data_folder: Path, base_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_BASE", str(base_checkpoint))
    cli = build(recipe, "--trainer.devices=1", "--trainer.precision=32")
    cli.model.read_data(cli.datamodule)
    with torch.device("meta"):
        cli.model.configure_model()
    if recipe.stem == "convirt":  # the subclass's own defaults hold on the command line too
        assert cli.model.objective.loss.image_weight == 0.75 and not cli.model.model.logit_scale.requires_grad
        assert type(cli.model.model.image_projection).__name__ == "MlpProjection"
    if recipe.stem not in ("demo", "signs", "video"):
        sizes = {"clip_vit_b32": 9, "siglip_vit_b16": 9, "cifar10": 40, "cifar10_record": 40}
        assert len(cli.datamodule.source("train")) == sizes.get(recipe.stem, 3)
    if "image" in cli.model.model.columns:
        assert cli.model.image_size == cli.model.model.image_encoder.image_size


OWN = [recipe for recipe in RECIPES if "## With your own pairs" in (ROOT / f"docs/recipes/{recipe.stem}.md").read_text()]


@pytest.mark.parametrize("recipe", corners(OWN, *OWN[:3]), ids=lambda path: path.stem)
def test_takes_pairs_of_ones_own(
    recipe: Path, data_folder: Path, base_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its page says; without validation and test data, and with a warm-up of any length."""
    monkeypatch.setenv("LIGHTNING_CLIP_BASE", str(base_checkpoint))
    (tmp_path / "photos").mkdir()
    write_folder(tmp_path / "photos", count=7)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / f"docs/recipes/{recipe.stem}.md").read_text()
    (command,) = [line for line in page.splitlines() if line.endswith("--data.train=photos --data.val=null --data.test=null")]
    cli = build(recipe, "--trainer.devices=1", "--trainer.precision=32", *command.split()[4:])
    cli.datamodule.setup("fit")
    assert len(cli.datamodule.source("train")) == 7 and not cli.datamodule.val_dataloader()


def test_most_recipes_take_pairs_of_ones_own() -> None:
    assert len(OWN) == 13


@pytest.mark.parametrize("how", sorted(path.stem for path in (ROOT / "recipes/adapt").glob("*.yaml") if path.stem != "cifar10"))
def test_ways_to_adapt_build(how: str, data_folder: Path, base_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_BASE", str(base_checkpoint))
    cli = build(ROOT / "recipes/adapt/cifar10.yaml", f"--config={ROOT}/recipes/adapt/{how}.yaml", "--data.train.shots=2")
    assert len(cli.datamodule.source("train")) == 20
    assert f"--config adapt/{how}" in (ROOT / "docs/recipes/adapt_cifar10.md").read_text()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_has_a_page_that_names_its_command(recipe: Path) -> None:
    page = ROOT / "docs/recipes" / f"{recipe.stem}.md"
    assert re.search(rf"lightning-clip fit (--config )?{recipe.stem}\b", page.read_text())
    assert page.name in (ROOT / "README.md").read_text()


COMPARED = sorted(file for file in (ROOT / "recipes").glob("*/**/*.yaml") if (file.parent / "base.yaml").is_file())
COMPARED = [file for file in COMPARED if file.name != "base.yaml"]


@pytest.mark.parametrize(
    "recipe", corners(COMPARED, COMPARED[0], COMPARED[-1]), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_recipes_that_are_compared_build(recipe: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each after the base of its folder, from the folder of the repository, as its page says."""
    monkeypatch.chdir(ROOT)
    shutil.rmtree(data_folder / "cifar10")
    write_cifar10(data_folder / "cifar10", test=100)  # of which the recipe takes 100 of each class
    sized = ["--data.train.size=16"] if recipe.parent.name == "scenes" else []
    cli = build(recipe.parent / "base.yaml", f"--config={recipe}", "--trainer.devices=1", *sized)
    cli.model.read_data(cli.datamodule)
    with torch.device("meta"):
        cli.model.configure_model()
    folder = recipe.parent.relative_to(ROOT / "recipes")
    pages = [page.read_text() for page in (ROOT / "docs/recipes").glob("*.md")]
    assert any(f"lightning-clip compare {folder}" in page and f"{recipe.stem}" in page for page in pages)


ABLATIONS = sorted((ROOT / "recipes/ablations/flickr8k").glob("*.yaml"))


@pytest.mark.parametrize("recipe", corners(ABLATIONS, ABLATIONS[0], ABLATIONS[-1]), ids=lambda path: path.stem)
def test_ablations_change_what_they_say(recipe: Path, data_folder: Path) -> None:
    """Each read after the recipe is another one, but for `whole`, and builds."""
    whole = ROOT / "recipes/flickr8k_record.yaml"
    parts = []
    for more in ([], [f"--config={recipe}"]):
        cli = build(whole, *more, "--trainer.devices=1")
        cli.model.read_data(cli.datamodule)
        with torch.device("meta"):
            cli.model.configure_model()
        parts.append(
            (
                repr(cli.model.hparams),
                cli.model.transform_settings,
                [type(callback).__name__ for callback in cli.trainer.callbacks],
            )
        )
    assert (parts[0] == parts[1]) == (recipe.stem == "whole")


def test_paper_recipe_has_the_papers_figures() -> None:
    recipe = yaml.safe_load((ROOT / "recipes/clip_vit_b32.yaml").read_text())
    trainer, model = recipe["trainer"], recipe["model"]
    assert recipe["data"]["local_batch_size"] * trainer["devices"] * trainer["num_nodes"] == 32768
    assert trainer["max_epochs"] == 32 and model["embed_dim"] == 512
    expected = {"lr": 5e-4, "weight_decay": 0.2, "betas": [0.9, 0.98], "eps": 1e-6, "warmup_steps": 2000}
    assert model["training"]["optimizer"] == expected
