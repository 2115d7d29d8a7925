"""Protocol "detection" against average precision in float64 loops, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from reference.boxes import average_precision
from small import IMAGE, small_module
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.applications.detection import Detections, Detector
from lightning_clip.data import SyntheticObjects, SyntheticScenes
from lightning_clip.data.boxes import Boxes
from lightning_clip.data.sources import Subset
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.detection import Detection
from lightning_clip.prompts.evaluation_sets import EvaluationSet

SCENES = SyntheticObjects("test", size=40, objects=3, image_size=32)


def subject_of(source: Any, names: Any = SCENES.class_names) -> Any:
    module = small_module(image_encoder={**IMAGE, "patch_size": 8}, objective="detection").eval()
    dataset = EvaluationSet(source, names, ["a {}"])
    return LiveSubject(PredictorModel(module.predictor), dataset, "objects", lambda images, classes: None)  # type: ignore[arg-type, return-value]


def guesses() -> list[Detections]:
    """True boxes that are moved a little, some of them under another name, some not at all, some twice."""
    generator = np.random.default_rng(0)
    found = []
    for place in range(len(SCENES)):
        boxes = SCENES.boxes(place)
        rows = [row for row in range(3) for _ in range(int(generator.integers(0, 3)))]
        corners = 32 * boxes.corners[rows] + torch.from_numpy(generator.normal(0, 1.2, (len(rows), 4))).float()
        labels = boxes.labels[rows]
        wrong = torch.from_numpy(generator.random(len(rows)) < 0.2)
        labels = torch.where(wrong, (labels + 1) % 64, labels)
        scores = torch.from_numpy(generator.permutation(1000)[: len(rows)] / 1000 + place * 1e-6).float()
        order = scores.argsort(descending=True)
        found.append(Detections(tuple(SCENES.class_names), corners[order], labels[order], scores[order]))
    return found


def test_figures_equal_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    found = guesses()
    given: Iterator[Detections] = iter(found)
    monkeypatch.setattr(Detector, "__call__", lambda self, image: next(given))
    metrics = Detection().evaluate(subject_of(SCENES)).metrics
    precision: dict[str, list[float]] = {}
    for label, name in enumerate(SCENES.class_names):
        true = [(32 * boxes.corners[boxes.labels == label]).tolist() for boxes in map(SCENES.boxes, range(len(SCENES)))]
        if any(true):
            own = [
                {"boxes": each.boxes[each.labels == label].tolist(), "scores": each.scores[each.labels == label].tolist()}
                for each in found
            ]
            precision[name] = [average_precision(own, true, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    for name, values in precision.items():
        assert metrics[f"ap50/{name}"] == pytest.approx(values[0], abs=1e-6)
    whole = np.array(list(precision.values()))
    assert 0.2 < metrics["map50"] < 0.9 and metrics["objects"] == 120
    assert metrics["map50"] == pytest.approx(whole[:, 0].mean(), abs=1e-6)
    assert metrics["map"] == pytest.approx(whole.mean(), abs=1e-6)
    assert metrics["map75"] == pytest.approx(whole[:, 5].mean(), abs=1e-6)
    for group, members in SCENES.class_groups().items():
        own_rows = np.array([values for name, values in precision.items() if name in members])
        assert metrics[f"map50/{group}"] == pytest.approx(own_rows[:, 0].mean(), abs=1e-6)
        assert metrics[f"map/{group}"] == pytest.approx(own_rows.mean(), abs=1e-6)


def test_true_boxes_are_perfect_and_crowds_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowded(SyntheticObjects):
        def boxes(self, index: int) -> Boxes:
            boxes = super().boxes(index)
            return Boxes(boxes.corners, boxes.labels, torch.tensor([False, index % 2 == 0, False]))

    source = Crowded("test", size=12, objects=3, image_size=32)
    places = iter(range(12))

    def true(self: Any, image: Tensor) -> Detections:
        boxes = source.boxes(next(places))
        kept = boxes.at(~boxes.crowd)
        return Detections(tuple(SCENES.class_names), 32 * kept.corners, kept.labels, torch.ones(len(kept)))

    monkeypatch.setattr(Detector, "__call__", true)
    metrics = Detection().evaluate(subject_of(source)).metrics
    assert metrics["map"] == pytest.approx(1.0) and metrics["objects"] == 30


def test_a_report_and_a_limit() -> None:
    subject = subject_of(Subset(SCENES, [3, 1, 2]))
    result = Detection(limit=2, boxes=20).evaluate(subject)
    assert result.metrics["objects"] == 6 and {"map50/seen"} <= set(result.metrics)
    table, pictures = Detection().sections({"model": result}, subject.dataset)
    assert table.table is not None and [row[0] for row in table.table.rows][:3] == ["map50", "map", "map75"]
    assert len(pictures.figures) == 2 and "model: sample 3" in pictures.figures[0][0]


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"SyntheticScenes has no boxes, which this protocol needs: take the set 'coco'"):
        Detection().evaluate(subject_of(SyntheticScenes(size=4, image_size=32)))
    with pytest.raises(InputError, match=r"has class \d+, and there are 2 class_names: give one for each label"):
        Detection().evaluate(subject_of(SCENES, SCENES.class_names[:2]))
    with pytest.raises(InputError, match=r"detection's boxes 0 must be"):
        Detection(boxes=0)

    class Empty(SyntheticObjects):
        def boxes(self, index: int) -> Boxes:
            return Boxes.of([], [])

    with pytest.raises(InputError, match=r"the pictures have no boxes to find"):
        Detection().evaluate(subject_of(Empty(size=2, image_size=32)))


def test_without_cocos_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics.detection.mean_ap as module

    monkeypatch.setattr(module, "_PYCOCOTOOLS_AVAILABLE", False)
    with pytest.raises(
        InputError, match=r"counts with pycocotools, which is not installed: pip install 'lightning-clip\[detection\]'"
    ):
        Detection().evaluate(subject_of(SCENES))
