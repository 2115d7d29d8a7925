"""A suite at work: the figures are those of the command, the training is the same without it, on one rank and on two."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from corners import corners
from lightning.pytorch.loggers import CSVLogger
from small import small_data, small_module, small_trainer
from strategies.ranks import fit

from lightning_clip import ClipModule, EvaluationSuite, InputError, Report, Retrieval, ZeroShotClassification
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite

SCENES = {"name": "synthetic", "split": "test", "held_out": True, "image_size": 32, "size": 21}
PROTOCOLS = ["zero_shot", "retrieval", {"name": "compositional", "size": 3}]


def suite(folder: Path, **more: Any) -> dict[str, Any]:
    sets = {"scenes": {**SCENES, "protocols": PROTOCOLS}, **more}
    return {"sets": sets, "output": str(folder / "out"), "batch_size": 8, "trainer": {"accelerator": "cpu"}}


def fitted(folder: Path, *callbacks: pl.Callback, **settings: Any) -> tuple[ClipModule, pl.Trainer]:
    pl.seed_everything(0)
    module = small_module()
    trainer = small_trainer(folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, small_data())
    return module, trainer


def expected(module: ClipModule, folder: Path) -> dict[str, float]:
    outcome = run_suite(Suite.parse({**suite(folder / "after")}), [PredictorModel(module.predictor, "after").eval()])  # type: ignore[list-item]
    return {
        f"val/{label}/scenes/{measure}": value
        for label, results in outcome.results["scenes"].items()
        for measure, value in results["after"].metrics.items()
    }


def test_figures_of_the_command_at_a_cadence(tmp_path: Path) -> None:
    callback = EvaluationSuite(suite(tmp_path), every_n_steps=2)
    module, trainer = fitted(tmp_path, callback, logger=CSVLogger(tmp_path, "logs"), log_every_n_steps=50)
    figures = expected(module, tmp_path)
    assert len(figures) > 10
    for key, value in figures.items():
        assert float(trainer.callback_metrics[key]) == pytest.approx(value, abs=1e-6), key
    lines = Path(trainer.logger.log_dir, "metrics.csv").read_text().splitlines()  # type: ignore[union-attr,arg-type]
    column = lines[0].split(",").index("val/zero_shot/scenes/top1")
    assert len([line for line in lines[1:] if line.split(",")[column]]) == 2  # steps 2 and 4 of 4
    assert (tmp_path / "out/report.html").exists()


def test_training_is_the_same_without(tmp_path: Path) -> None:
    plain, _ = fitted(tmp_path)
    watched, _ = fitted(tmp_path, EvaluationSuite(suite(tmp_path), every_n_steps=1, report=False))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key


@pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"], "ddp"))
def test_two_ranks_see_the_whole_set(strategy: str, tmp_path: Path) -> None:
    """21 images: eleven and ten; the figures are those of one process with the weights of the end."""
    callback = EvaluationSuite(suite(tmp_path), every_n_steps=4)
    saved = tmp_path / "two.ckpt"
    found = fit(tmp_path, strategy=strategy, callbacks=[callback], max_steps=4, save=saved)["metrics"]
    for key, value in expected(ClipModule.load_from_checkpoint(saved), tmp_path).items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    report = json.loads((tmp_path / "out/report.json").read_text())["results"]["scenes"]["zero_shot"]
    assert len(report["ClipModule"]["per_image"]) == 21


def test_goes_on_where_something_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {"gone": {"name": str(tmp_path / "gone"), "protocols": ["zero_shot"]}}
    with caplog.at_level(logging.WARNING):
        _, trainer = fitted(tmp_path, EvaluationSuite(suite(tmp_path, **wrong), every_n_steps=4))
    assert "zero_shot on gone could not be measured: " in caplog.text and trainer.global_step == 4
    assert "val/zero_shot/scenes/top1" in trainer.callback_metrics


def test_at_each_validation(tmp_path: Path) -> None:
    _, trainer = fitted(tmp_path, EvaluationSuite(suite(tmp_path), report=False), max_epochs=1)
    assert "val/compositional/scenes/text" in trainer.callback_metrics


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every_n_steps 0 must be at least 1 step"):
        EvaluationSuite(suite(tmp_path), every_n_steps=0)
    with pytest.raises(InputError, match="the suite has no sets"):
        EvaluationSuite({})
    with pytest.raises(InputError, match="does not exist"):
        EvaluationSuite(str(tmp_path / "none.yaml"))


def test_beside_the_report(tmp_path: Path) -> None:
    """Curves of the callback and of the suite stand in one figure, each with its name."""
    callbacks = [Report(tmp_path / "report.html"), Retrieval(), EvaluationSuite(suite(tmp_path), report=False)]
    fitted(tmp_path, *callbacks)
    page = (tmp_path / "report.html").read_text("utf-8")
    for name in ("text → image", "scenes: text → image"):
        assert f">{name}<" in page, name


@pytest.mark.parametrize("protocol", ["zero_shot", {"name": "zero_shot"}])
def test_a_set_that_another_callback_measures(tmp_path: Path, protocol: Any) -> None:
    callbacks = [
        ZeroShotClassification({"scenes": SCENES}),
        EvaluationSuite({"sets": {"scenes": {**SCENES, "protocols": [protocol]}}}),
    ]
    with pytest.raises(InputError, match="'scenes' is measured by ZeroShotClassification and by protocol zero_shot of .*omit"):
        fitted(tmp_path, *callbacks)
