"""Settings of any depth on the command line, as the parser of `fit` reads them and as the run's recipe keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands.plugins import isolated
from small import IMAGE, TEXT

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.cli import main
from lightning_clip.commands.deep_settings import with_deep_settings
from lightning_clip.commands.recipe import read_recipe
from lightning_clip.core.errors import InputError

Recipe = Callable[..., str]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Writes a small recipe, some of it replaced, and returns its path."""
    monkeypatch.chdir(tmp_path)
    scenes = {"name": "synthetic", "size": 40, "image_size": 32}

    def write(name: str = "recipe.yaml", **parts: Any) -> str:
        settings: dict[str, Any] = {
            "model": {
                "image_encoder": IMAGE,
                "text_encoder": TEXT,
                "embed_dim": 16,
                "training": {"optimizer": {"warmup_steps": 0, "lr": 1e-3, "betas": [0.9, 0.98]}},
            },
            "data": {"train": scenes, "local_batch_size": 8},
            "trainer": {
                "max_steps": 1,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            },
            **parts,
        }
        (tmp_path / name).write_text(yaml.safe_dump(settings))
        return name

    return write


def mapping_of(arguments: list[str], flag: str) -> Any:
    """The last value of an option."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]
    return yaml.safe_load(values[-1])


def put_together(*arguments: str) -> list[str]:
    return with_deep_settings(["fit", *arguments], ClipModule, ClipDataModule)


class TestMappings:
    def test_one_value_changes_and_the_others_stay(self, recipe: Recipe) -> None:
        found = put_together("--config", recipe(), "--model.training.optimizer.lr=0.5")
        optimizer = {"warmup_steps": 0, "lr": 0.5, "betas": [0.9, 0.98]}
        assert mapping_of(found, "--model.training") == {"optimizer": optimizer}

    def test_several_one_after_the_other(self, recipe: Recipe) -> None:
        found = put_together(
            "--config", recipe(), "--model.image_encoder.depth=2", "--model.image_encoder.drop.path", "0.1", "--data.seed=3"
        )
        assert mapping_of(found, "--model.image_encoder") == {**IMAGE, "depth": 2, "drop": {"path": 0.1}}
        assert found[-1] == "--data.seed=3"

    def test_levels_that_are_not_there_are_made(self, recipe: Recipe) -> None:
        found = put_together("--config", recipe(), "--model.towers.image.transform.flip=0.5")
        assert mapping_of(found, "--model.towers") == {"image": {"transform": {"flip": 0.5}}}

    def test_the_later_file_counts(self, recipe: Recipe) -> None:
        recipe("more.yaml", data={"train": {"name": "synthetic", "size": 9}})
        first = ("--config", recipe())
        assert mapping_of(put_together(*first, "--config=more.yaml", "--data.train.split=val"), "--data.train") == {
            "name": "synthetic",
            "size": 9,
            "split": "val",
        }
        later = put_together(*first, "--data.train.split=val", "-c", "more.yaml")
        assert mapping_of(later, "--data.train")["size"] == 40 and later[-1] == "-c=more.yaml"

    def test_a_class_path_and_its_arguments(self, recipe: Recipe) -> None:
        model = {"class_path": "lightning_clip.ClipModule", "init_args": {"text_encoder": TEXT}}
        found = put_together("--config", recipe(model=model), "--model.init_args.text_encoder.layers=3")
        assert mapping_of(found, "--model.text_encoder") == {**TEXT, "layers": 3}
        found = put_together("--config", recipe(model=model), "--model.text_encoder.layers=3")
        assert mapping_of(found, "--model.text_encoder") == {**TEXT, "layers": 3}

    def test_an_option_with_the_whole_before_it(self, recipe: Recipe) -> None:
        whole = "--model.image_encoder={name: resnet10t}"
        found = put_together("--config", recipe(), whole, "--model.image_encoder.image_size=64")
        assert mapping_of(found, "--model.image_encoder") == {"name": "resnet10t", "image_size": 64}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-3", 0.001),
            ("1e-07", 1e-7),
            ("null", None),
            ("true", True),
            ("[0.9, 0.95]", [0.9, 0.95]),
            ("{a: {b: c}}", {"a": {"b": "c"}}),
            ('"1e-3"', "1e-3"),
            ("a=b", "a=b"),
            ("红", "红"),
            ("${model.embed_dim}", "${...embed_dim}"),
            ("${model.training.optimizer.weight_decay}", "${.weight_decay}"),
            ("${data.train.size}", "${.....data.train.size}"),
            ("${oc.env:HOME,x}", "${oc.env:HOME,x}"),
        ],
    )
    def test_values(self, text: str, value: Any) -> None:
        (_, option) = put_together(f"--model.training.optimizer.lr={text}")
        assert option.startswith("--model.training=") and mapping_of([option], "--model.training")["optimizer"]["lr"] == value

    def test_what_only_takes_objects_is_the_parsers(self) -> None:
        class Own(ClipModule):
            def __init__(self, head: Mapping[str, int] | None = None, body: Path | None = None, **others: Any) -> None:
                super().__init__(**others)

        given = ["fit", "--model.body.class_path=x", "--model.nothing.a=1", "--trainer.logger.save_dir=x", "--model.head.a=1"]
        assert with_deep_settings(given, Own, ClipDataModule) == [*given[:-1], '--model.head={"a": 1}']


class TestThroughTheParser:
    def test_fit_keeps_them(self, recipe: Recipe, tmp_path: Path) -> None:
        arguments = (
            "--model.image_encoder.depth=2",
            "--model.training.optimizer.lr=1e-4",
            "--model.training.micro_batch_size=4",
            "--model.towers.image.transform.flip=0.5",
            "--data.train.size=32",
        )
        assert main(["fit", "--config", recipe(), *arguments]) == 0
        kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
        model = kept["model"]["init_args"]
        assert model["image_encoder"] == {**IMAGE, "depth": 2}
        optimizer = {"warmup_steps": 0, "lr": 1e-4, "betas": [0.9, 0.98]}
        assert model["training"] == {"optimizer": optimizer, "micro_batch_size": 4}
        assert model["towers"] == {"image": {"transform": {"flip": 0.5}}}
        assert kept["data"]["train"] == {"name": "synthetic", "size": 32, "image_size": 32}

    def test_references_see_them(self, recipe: Recipe) -> None:
        data = {"train": {"name": "synthetic", "size": 40}, "val": {"name": "synthetic", "size": "${data.train.size}"}}
        read = read_recipe([recipe(data={**data, "local_batch_size": 8})], ["--data.train.size=12"])
        assert len(read.data.source("train")) == len(read.data.source("val")) == 12
        read = read_recipe([recipe(data=data)], ["--model.embed_dim=24", "--data.train.size=${model.embed_dim}"])
        assert len(read.data.source("val")) == 24

    def test_references_beside_them_stay(self, recipe: Recipe) -> None:
        settings = {"optimizer": {"lr": 1e-3, "warmup_steps": "${model.embed_dim}"}, "micro_batch_size": "${data.seed}"}
        model = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16, "training": settings}
        read = read_recipe([recipe(model=model)], ["--model.training.optimizer.lr=0.5", "--data.seed=4"])
        assert read.module.training_settings.optimizer.warmup_steps == 16 and read.module.micro_batch_size == 4

    def test_plan_takes_them(self, recipe: Recipe) -> None:
        read = read_recipe([recipe()], ["--model.training.micro_batch_size=2", "--data.train.size", "16"])
        assert read.module.micro_batch_size == 2 and len(read.data.source("train")) == 16

    def test_arguments_of_a_subclass_in_a_plugin(self, recipe: Recipe, tmp_path: Path) -> None:
        code = (
            "from typing import Any\n\nfrom lightning_clip import ClipModule\n\n\nclass Domain(ClipModule):\n"
            "    def __init__(self, own: dict[str, Any] | None = None, **others: Any) -> None:\n"
            "        super().__init__(**others)\n        self.own = own\n"
        )
        (tmp_path / "deep_domain.py").write_text(code)
        init = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16, "own": {"a": {"b": 1, "c": 2}}}
        path = recipe(model={"class_path": "deep_domain.Domain", "init_args": init})
        with isolated(tmp_path):
            assert main(["plan", "--config", path, "--import", "deep_domain.py", "--model.own.a.b=5"]) == 0
            read = read_recipe([path], ["--model.own.a.b=5", "--model.text_encoder.layers=2"])
        assert read.module.own == {"a": {"b": 5, "c": 2}}
        assert read.module.recipe.towers["text"].tower["layers"] == 2


class TestMistakes:
    @pytest.mark.parametrize(
        ("option", "said"),
        [
            (
                "--model.objective.max_scale=50",
                "reaches into model.objective, which is 'softmax' and no mapping: give --model.objective={name: softmax, "
                "max_scale: ...}",
            ),
            ("--model.training.optimizer.betas.0=0.5", "model.training.optimizer.betas, which is .0.9, 0.98. and no mapping"),
            ("--model.training.optimizer.lr.low=1", "model.training.optimizer.lr, which is 0.001 and no mapping"),
            ("--model.training.optimizer.lr=[1", "has no value that YAML can hold"),
            ("--model.training.optimizer.lr=${a", "has no value that YAML can hold"),
            ("--model.training.optimiser.lr=1", "training has no setting 'optimiser': did you mean 'optimizer'"),
            ("--model.image_encoder.dephts=1", "dephts"),
            ("--model.trainings.lr=1", "trainings"),
            ("--data.train.sizes=1", "data source 'synthetic' has no setting 'sizes': did you mean 'size'"),
        ],
    )
    def test_one_line(self, option: str, said: str, recipe: Recipe) -> None:
        settings = {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.98]}}
        model = {"image_encoder": IMAGE, "text_encoder": TEXT, "objective": "softmax", "embed_dim": 16, "training": settings}

        def build() -> None:
            read = read_recipe([recipe(model=model)], [option])
            read.data.source("train")
            read.module.configure_model()

        with pytest.raises(InputError, match=said):
            build()
