"""`lightning-clip plan`: figures, recipes without their data, overrides, and mistakes in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from corners import corners
from small import IMAGE, TEXT

from lightning_clip.cli import main

ROOT = Path(__file__).parent.parent.parent
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for eight devices whose data is not here, with callbacks that must not be built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PLAN_SHARDS", "gone/{000..009}.tar")
    settings = {
        "model": {
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "embed_dim": 16,
            "training": {"optimizer": {"warmup_steps": 1}},
        },
        "data": {"train": "${oc.env:PLAN_SHARDS}", "local_batch_size": 16},
        "trainer": {
            "accelerator": "gpu",
            "devices": 4,
            "num_nodes": 2,
            "strategy": "ddp",
            "precision": "bf16-mixed",
            "max_steps": 50,
            "callbacks": [
                {"class_path": "lightning_clip.ZeroShotClassification", "init_args": {"datasets": {"x": "gone/labels.csv"}}}
            ],
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, config: str = "recipe.yaml") -> dict[str, Any]:
    assert main(["plan", "--config", config, "--json", *arguments]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_the_recipe_says(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys)
    assert (found["devices"], found["strategy"], found["precision"], found["device"]) == (8, "ddp", "bf16-mixed", "H100")
    assert found["global_batch_size"] == 128 and found["steps"] == 50 and found["samples"] == 6400
    useful = found["flops"]["forward"] + found["flops"]["backward"]
    assert found["seconds"] == pytest.approx(useful / (8 * found["peak_flops"] * found["mfu"]))
    memory = found["memory_per_device"]
    assert memory["total"] == pytest.approx(sum(memory.values()) - memory["total"] - memory["device"])


def test_what_the_command_line_says(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--devices", "3", "--device", "v100", "--precision", "16-mixed", "--strategy", "clip_fsdp2", "--mfu", "0.5"]
    options += ["--samples", "1e6", "--micro-batch-size", "4", "--caption-length", "32"]
    found = plan(capsys, *options, "--data.local_batch_size=64", "--trainer.accumulate_grad_batches=2")
    assert (found["device"], found["peak_flops"], found["mfu"]) == ("V100", 125e12, 0.5)
    assert found["global_batch_size"] == 3 * 64 * 2 and found["samples"] == 1_000_000 and found["steps"] == 2605
    assert found["micro_batch_size"] == 4 and found["caption_length"] == 32 and found["flops"]["recomputed"] > 0


def test_classes_are_those_of_the_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings["model"] = {"class_path": "lightning_clip.tasks.ClassifierModule", "init_args": settings["model"]}
    source = {"name": "synthetic", "held_out": True, "size": 64, "image_size": 32}
    settings["data"]["train"] = {"name": "shots", "source": source, "shots": 4}
    recipe.write_text(yaml.safe_dump(settings))
    assert plan(capsys, "--strategy=ddp")["samples"] == 6400


def test_data_that_is_here_is_counted(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--data.train={name: synthetic, size: 1000, image_size: 32}", "--trainer.max_epochs=3", "--trainer.max_steps=-1"]
    assert plan(capsys, *source)["samples"] == 3 * 7 * 128


def test_published_weights_are_not_loaded(recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps(BERT))  # and no weights beside it
    settings = yaml.safe_load(recipe.read_text())
    settings["model"] |= {"text_encoder": "hf:bert", "tokenizer": {"name": "clip"}}
    settings["model"]["text_encoder"] = {"name": "hf", "path": "bert"}
    settings["model"]["image_encoder"] = {**IMAGE, "pretrained": True}
    (tmp_path / "bert/config.json").write_text(json.dumps({**BERT, "vocab_size": 49408}))
    recipe.write_text(yaml.safe_dump(settings))
    assert plan(capsys)["parameters"]["text"] > 32 * 49408


@pytest.mark.parametrize("name", corners(["convirt", "demo"], "demo"))
def test_recipes_of_the_project(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass by its class path, and a run that ends by its steps."""
    monkeypatch.delenv("LIGHTNING_CLIP_DATA", raising=False)
    found = plan(capsys, *(["--samples", "1000"] if name == "convirt" else []), config=str(ROOT / f"recipes/{name}.yaml"))
    assert found["samples"] == {"convirt": 1000, "demo": 200 * 256}[name] and found["fits"]


def test_tables(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--device", "mine", "--peak-flops", "1e12", "--device-memory", "0.16", "--data.local_batch_size=4096"]
    assert main(["plan", "--config", "recipe.yaml", *settings]) == 0
    printed = capsys.readouterr().out
    for text in (
        "Plan of recipe.yaml",
        "8 x mine, bf16-mixed, ddp",
        "accelerator time",
        "FLOPs per sample",
        "Memory per device",
    ):
        assert text in printed
    assert re.search(
        r"This does not fit into a mine\. What would: --micro-batch-size \d+ .*--data.local_batch_size=\d+", printed
    )


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--device", "h10"), "unknown device 'h10': did you mean 'h100'"),
        (("--device", "v100"), "V100 has no bf16 arithmetic for precision 'bf16-mixed'"),
        (("--mfu", "40"), "mfu 40 is a share of the peak"),
        (("--samples", "many"), "--samples 'many' is no number: write 400000000 or 4e8"),
        (("--samples", "0"), "--samples 0 must be at least 1"),
        (("--devices", "0"), "devices 0 must be at least 1"),
        (("--strategy", "zero"), "strategy 'zero' is not supported by plan"),
        (("--micro-batch-size", "5"), "micro_batch_size 5 does not divide local_batch_size 16: take 4"),
        (("--trainer.max_steps=-1", "--trainer.max_epochs=-1"), "the recipe has no end: set trainer.max_steps"),
        (("--trainer.max_steps=-1", "--trainer.max_epochs=32"), "32 epochs of data that cannot be opened.*--samples 32e6"),
        (("--data.local_batch_sizes=3",), r"did you mean --data\.local_batch_size\?"),
        (("--config", "recip.yaml"), "recipe 'recip.yaml' does not exist.*did you mean 'recipe.yaml'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistakes(arguments: tuple[str, ...], pattern: str, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "recipe.yaml", *arguments]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("lightning-clip"))
    assert re.search(pattern, line), line


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "--help"])
    assert left.value.code == 0 and "usage: lightning-clip plan" in capsys.readouterr().out


def test_other_commands_still_refuse_unknown_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "inspect", "--data", "x", "--colour", "red"])
    assert "unrecognized arguments: --colour red" in capsys.readouterr().err


def test_the_example_of_the_documentation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure of the first two tables, and the names of the third, whose figures follow the towers' versions."""
    page = (ROOT / "docs/concepts/compute.md").read_text()
    found = re.search(r"```console\nlightning-clip (plan --config [^\n]*)\n```\n\n```text\n(.*?)```", page, re.S)
    assert found is not None
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(found[1].split()) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for line in found[2].split("Memory per device")[0].splitlines():
        assert line.strip() in printed
    for line in found[2].split("Memory per device")[1].splitlines():
        assert any(other.startswith(line[:20]) for other in printed), line


def test_the_python_example_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    code = (ROOT / "docs/concepts/compute.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code, {})
    years, gibibytes = map(float, capsys.readouterr().out.split())
    assert 0.05 < years < 0.07 and 10 < gibibytes < 30


def test_a_trainer_that_is_no_mapping(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "trainer": 5}))
    assert main(["plan", "--config", str(recipe)]) == 2
    assert "the recipe's trainer 5 must be a mapping, such as trainer: {max_epochs: 3}" in capsys.readouterr().err
