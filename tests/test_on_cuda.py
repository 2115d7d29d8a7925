"""Whole runs on a card: every objective with the callbacks that watch it, beside the same run on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small import IMAGE, TEXT, small_data, small_module, small_trainer

from lightning_clip import EvaluationSuite, LogExamples, Report, Retrieval, ZeroShotClassification

WORDS = ["red", "green", "blue", "circle", "square", "triangle"]
DECODER = {"width": 16, "layers": 1, "heads": 2}
VIEWS = {"image": {"transform": {"views": 3}}}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "pairs": {"objective": "pairs"},
    "sigmoid": {"loss": "sigmoid"},
    "words": {"objective": {"name": "words", "vocabulary": WORDS}, "text_encoder": None},
    "hashtags": {"objective": {"name": "hashtags", "separator": " "}, "text_encoder": None},
    "captioning": {"objective": {"name": "captioning", "decoder": DECODER}, "text_encoder": None},
    "masked_words": {"objective": {"name": "masked_words", "decoder": DECODER}, "text_encoder": None},
    "several_texts": {"objective": {"name": "several_texts", "count": 1}},
    "negclip": {"objective": {"name": "negclip", "count": 2}},
    "flair": {"objective": {"name": "flair", "heads": 2}},
    "fastclip": {"objective": "fastclip"},
    "clip_refine": {"objective": "clip_refine"},
    "slip": {"objective": [{"name": "pairs"}, {"name": "slip", "hidden": 16, "width": 8}], "towers": VIEWS},
    "coca": {"objective": {"name": "coca", "decoder": DECODER}},
}
HELD_OUT = {"name": "synthetic", "held_out": True, "size": 16, "image_size": 32}


def figures(folder: Path, accelerator: str, settings: dict[str, Any]) -> dict[str, float]:
    """What two steps and a validation log, with everything that watches a run."""
    pl.seed_everything(0)
    module = small_module(image_encoder={**IMAGE, "patch_size": 8}, **{"text_encoder": TEXT, **settings})
    callbacks: list[pl.Callback] = [
        ZeroShotClassification({"held_out": HELD_OUT}),
        Report(folder / "report.html"),
        LogExamples(),
    ]
    if settings.get("text_encoder", TEXT) is not None:
        sets = {"scenes": {**HELD_OUT, "protocols": ["zero_shot", "retrieval"]}}
        callbacks += [Retrieval(), EvaluationSuite({"sets": sets, "output": str(folder / "suite")})]
    options = {"max_steps": 2, "callbacks": callbacks, "accelerator": accelerator, "limit_val_batches": 2}
    trainer = small_trainer(folder, **options)
    trainer.fit(module, small_data(size=32, batch=16))
    return {name: float(value) for name, value in trainer.callback_metrics.items() if "second" not in name}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_is_that_of_the_cpu(name: str, tmp_path: Path) -> None:
    expected = figures(tmp_path / "cpu", "cpu", OBJECTIVES[name])
    found = figures(tmp_path / "cuda", "gpu", OBJECTIVES[name])
    assert found.keys() == expected.keys() and any("loss" in key for key in found)
    for key, value in expected.items():
        if "loss" in key:
            assert found[key] == pytest.approx(value, rel=1e-3), key
