"""The pages "From ...": every flag of the other program is there, and every option of ours that they name exists."""

from __future__ import annotations

import inspect
import re
from importlib import import_module, util
from pathlib import Path
from typing import Any

import pytest
import yaml
from flags_of_others import CHINESE_CLIP, OPEN_CLIP, RUN_CLIP
from lightning.pytorch import Trainer
from lightning.pytorch import loggers as lightning_loggers
from small import IMAGE, TEXT
from test_recipes import build

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.core.errors import InputError
from lightning_clip.data import TableSource, pair_sources

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {"from_open_clip": OPEN_CLIP, "from_chinese_clip": CHINESE_CLIP, "from_transformers": RUN_CLIP}
PAGES = {name: (ROOT / f"docs/{name}.md").read_text() for name in (*FLAGS, "faq", "docker")}
# Spans of code that are one option with its value: `--model.training.optimizer.lr=5e-4`.
VALUES = [
    pytest.param(page, *span, id=f"{page}-{span[0]}-{number}")
    for page, text in PAGES.items()
    for number, span in enumerate(re.findall(r"`--((?:model|data|trainer)\.[\w.]+)=([^`\n]+)`", text))
]
NAMED = sorted({name for text in PAGES.values() for name in re.findall(r"--((?:model|data|trainer)\.[\w.]*\w)", text)})


def first_cells(page: str) -> set[str]:
    rows = re.findall(r"^\| (`--.*?) \|", PAGES[page], flags=re.M)
    return {flag for cell in rows for flag in re.findall(r"`--([\w-]+)`", cell)}


@pytest.mark.parametrize("page", FLAGS)
def test_every_flag_has_a_row(page: str) -> None:
    assert len(FLAGS[page]) >= 20 and set(FLAGS[page]) - first_cells(page) == set()


@pytest.mark.parametrize("page", ["from_open_clip", "from_chinese_clip"])
def test_no_flag_is_invented(page: str) -> None:
    assert first_cells(page) - set(FLAGS[page]) == set()


@pytest.mark.skipif(util.find_spec("open_clip_train") is None, reason="needs open_clip's training program")
def test_the_list_is_that_of_the_installed_open_clip() -> None:
    spec = util.find_spec("open_clip_train")
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent / "params.py").read_text()
    assert sorted(re.findall(r"add_argument\(\s*['\"]--([\w-]+)", text)) == sorted(OPEN_CLIP)


def parse(value: str) -> Any:
    """As the command line reads it: YAML, in which 5e-4 is a number."""
    parsed = yaml.safe_load(value)
    return float(parsed) if isinstance(parsed, str) and re.fullmatch(r"[\d.]+e-?\d+", parsed) else parsed


def nested(names: list[str], value: Any) -> Any:
    return {names[0]: nested(names[1:], value)} if names else value


def check_class(value: Any) -> None:
    """A class with its arguments: both exist; nothing is built, since its packages may not be here."""
    package, _, name = value["class_path"].rpartition(".")
    inspect.signature(getattr(import_module(package), name)).bind_partial(**value.get("init_args", {}))


def check_source(value: Any) -> None:
    if isinstance(value, dict):
        settings = {key: setting for key, setting in value.items() if key != "name"}
        known = value["name"] in pair_sources.names()
        factory = pair_sources.factory(value["name"]) if known else TableSource
        inspect.signature(factory).bind_partial(**settings)


def check_model(names: list[str], value: Any) -> None:
    small: dict[str, Any] = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16}
    if names == ["pretrained"]:
        keys = value if isinstance(value, dict) else {"source": value}
        assert set(keys) <= set(inspect.signature(ClipModule.from_pretrained).parameters)
    elif "hf:" in str(value):  # asks for its files; its settings alone are looked at
        settings = dict(value) if isinstance(value, dict) else {"name": value}
        assert settings.pop("name").startswith("hf:") and names[0] in ("text_encoder", "tokenizer")
        assert set(settings) <= {"pooling", "context_length"}
    elif names[0] in ("image_encoder", "text_encoder"):
        ClipModule(**{**small, names[0]: value})
    else:
        ClipModule(**{**small, **nested(names, value)})


@pytest.mark.parametrize(("page", "name", "value"), VALUES)
def test_an_option_takes_its_value(page: str, name: str, value: str) -> None:
    part, *names = name.split(".")
    parsed = parse(value)
    if part == "data":
        assert names[0] in inspect.signature(ClipDataModule).parameters
        check_source(parsed)
    elif part == "trainer":
        assert names[0] in inspect.signature(Trainer).parameters
        if isinstance(parsed, dict):
            check_class(parsed)
        if names == ["logger"] and isinstance(parsed, str):
            assert hasattr(lightning_loggers, parsed)
    else:
        check_model(names, parsed)


def test_a_wrong_option_would_be_found() -> None:
    with pytest.raises(InputError, match="lrr"):
        check_model(["training", "optimizer", "lrr"], 1.0)
    with pytest.raises(TypeError, match="separator"):
        check_source({"name": "train.csv", "separator": ";"})


def test_every_option_that_is_named_has_a_value_somewhere() -> None:
    """Options inside longer commands are those that the spans try, or are Trainer's and the data module's."""
    tried = {param.values[1] for param in VALUES}
    known = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    known |= {f"data.{name}" for name in inspect.signature(ClipDataModule).parameters}
    assert len(NAMED) >= 40 and [name for name in NAMED if name not in tried | known] == []


def test_options_of_the_page_build_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line takes them, at once."""
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", "none")
    chosen = {param.values[1]: param.values[2] for param in VALUES if param.values[0] == "from_open_clip"}
    skipped = ("model.pretrained", "trainer.strategy", "trainer.accelerator", "trainer.logger", "trainer.fast_dev_run")
    options = [f"--{name}={value}" for name, value in chosen.items() if name not in skipped]
    cli = build(ROOT / "recipes/demo.yaml", *options, "--seed_everything=0", "--model.image_encoder=vit_base_patch32_clip_224")
    assert len(options) >= 30 and cli.model.training_settings.optimizer.name == "lion"


def recipes_of(page: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"<!-- recipe: \w+ -->\n```yaml\n(.*?)```", PAGES[page], re.S)]


@pytest.mark.parametrize("page", ["from_chinese_clip", "from_transformers"])
def test_recipes_are_taken(page: str) -> None:
    (recipe,) = recipes_of(page)
    for split in ("train", "val"):
        check_source(recipe["data"][split])
    small = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16, "pretrained": None, "tokenizer": None}
    ClipModule(**{**recipe["model"], **small})
    assert set(recipe["trainer"]) <= set(inspect.signature(Trainer).parameters)


def test_faq_links_to_sections_that_pages_promise() -> None:
    anchors = set(re.findall(r"\{ #([\w-]+) \}", PAGES["faq"]))
    assert {"out-of-memory", "loss-stays-at-log-b", "nan", "slow-loader", "slurm", "torchrun", "spot-machines"} <= anchors
    assert {"resume", "few-data", "which-model", "multi-gpu"} <= anchors
