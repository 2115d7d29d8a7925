"""The card's evaluation: table and plots of `lightning-clip evaluate`, figures of these very weights for the hub's index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from small import save_checkpoint, small_module

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.export.card import Run
from lightning_clip.export.evaluated import Evaluation

SETS = {
    "scenes": {
        "name": "synthetic",
        "held_out": True,
        "image_size": 32,
        "size": 40,
        "templates": ["a {}"],
        "protocols": ["zero_shot", "retrieval"],
    }
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, and a report on the first beside them."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("mine", "other"):
        save_checkpoint(folder / f"{name}.ckpt", small_module())
    (folder / "suite.yaml").write_text(yaml.safe_dump({"sets": SETS, "output": str(folder / "evaluation"), "batch_size": 16}))
    assert main(["evaluate", "--checkpoint", str(folder / "mine.ckpt"), "--suite", str(folder / "suite.yaml")]) == 0
    return folder


def export(checkpoint: Path, output: Path, *arguments: str) -> str:
    assert main(["export", str(checkpoint), "--format", "safetensors", "--output", str(output), *arguments]) == 0
    return (output / "README.md").read_text()


def test_table_plots_and_index(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = export(run / "mine.ckpt", tmp_path / "out", "--evaluation", str(run / "evaluation"))
    assert "figures in the card's model-index" in capsys.readouterr().out
    record = json.loads((run / "evaluation/report.json").read_text())
    found = ModelCard(card).data
    assert found.library_name == "lightning_clip" and found.model_name == "out" and "clip" in found.tags
    figures = {(one.task_type, one.dataset_name, one.metric_name): one for one in found.eval_results}
    first = figures["zero-shot-image-classification", "scenes", "top1"]
    expected = record["results"]["scenes"]["zero_shot"]["mine"]["metrics"]["top1"]
    assert first.metric_type == "accuracy" and first.metric_value == pytest.approx(expected, abs=1e-6)
    assert any(task == "retrieval" and measure.startswith("text_to_image/") for task, _, measure in figures)
    assert (run / "evaluation/report.md").read_text().strip() in card
    plots = sorted((tmp_path / "out/plots").iterdir())
    assert plots and all(f"](plots/{plot.name})" in card for plot in plots) and card.count("](plots/") == len(plots)
    for plot in plots:
        Image.open(plot).verify()
    drawn = {file.name for file in (run / "evaluation/report_figures").iterdir()}
    assert {plot.name for plot in plots} < drawn  # sheets of pictures stay where they are


@pytest.mark.parametrize("name", ["report.json", "report.md"])
def test_a_file_of_the_report(run: Path, name: str) -> None:
    found = Evaluation.read(run / "evaluation" / name)
    assert found.plots and found.results and "| scenes | zero_shot |" in found.table


def test_it_is_found_beside_the_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of these very weights, whatever the file is called; never that of others."""
    shutil.copy(run / "mine.ckpt", run / "renamed.ckpt")
    assert "model-index:" in export(run / "renamed.ckpt", tmp_path / "renamed")
    other = export(run / "other.ckpt", tmp_path / "other")
    assert "model-index" not in other and "Not measured yet" in other
    assert "evaluation:" in capsys.readouterr().out


def test_other_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who names their report gets its table, with the names in it, and no figures under this model's name."""
    card = export(run / "other.ckpt", tmp_path / "out", "--evaluation", str(run / "evaluation"))
    assert "measured other weights (mine): its table is in the card, no model-index" in capsys.readouterr().out
    assert "| scenes | zero_shot |" in card and "model-index" not in card


def test_damaged_reports(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "evaluation", tmp_path / "report", ignore=shutil.ignore_patterns("features"))
    record = tmp_path / "report/report.json"
    content = json.loads(record.read_text())
    (tmp_path / "secret.png").write_bytes(b"elsewhere")
    record.write_text(json.dumps({**content, "plots": [{"title": "a", "file": "../secret.png"}]}))
    assert not Evaluation.read(record).plots
    for broken in ("{", "[]", json.dumps({"plots": [3], "results": {}})):
        record.write_text(broken)
        with pytest.raises(InputError, match="report.json' is damaged .*: run lightning-clip evaluate again"):
            Evaluation.read(tmp_path / "report")
    record.unlink()
    assert not Evaluation.read(tmp_path / "report").results  # a table alone
    (tmp_path / "report/report.md").unlink()
    with pytest.raises(InputError, match="has no report.md: give a folder that lightning-clip evaluate wrote"):
        Run.of("a", evaluation=str(tmp_path / "report"))
