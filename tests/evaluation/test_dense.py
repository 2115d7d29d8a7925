"""Protocols `segmentation` and `localization` against plain loops, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.test_masks import voc
from small import small_module
from torch import Tensor

from lightning_clip.applications.segmentation import NOTHING, Segmenter
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data import SyntheticObjects
from lightning_clip.data.masks import BACKGROUND, UNLABELLED, MaskedSource
from lightning_clip.data.sources import Subset
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.localization import Localization, localized
from lightning_clip.evaluation.protocols.segmentation import Segmentation
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

TEMPLATES = ["a {}"]


@pytest.fixture(scope="module")
def model() -> PredictorModel:
    torch.manual_seed(0)
    vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2}
    return PredictorModel(small_module(image_encoder=vit).eval().predictor, "small")


def subject(model: EvaluatedModel, dataset: EvaluationSet) -> LiveSubject:
    return LiveSubject(model, dataset, "set", lambda images, classes: None)  # type: ignore[arg-type, return-value]


def scenes(size: int = 6, **options: Any) -> EvaluationSet:
    source = SyntheticObjects("test", size=size, image_size=32, **options)
    return EvaluationSet(source, source.class_names, TEMPLATES)


def looped_iou(named: list[Tensor], true: list[Tensor], classes: int) -> tuple[float, float, dict[int, float]]:
    """Mean IoU over classes that occur or are named, and the share of pixels named right, pixel by pixel in float64."""
    both, either, right, counted = np.zeros(classes), np.zeros(classes), 0, 0
    for labels, mask in zip(named, true, strict=True):
        for one, other in zip(labels.flatten().tolist(), mask.flatten().tolist(), strict=True):
            if other == UNLABELLED:
                continue
            counted += 1
            right += one == other
            both[one] += one == other
            either[one] += 1
            either[other] += one != other
    each = {c: both[c] / either[c] for c in range(classes) if either[c]}
    return sum(each.values()) / len(each), right / counted, each


class Nearly(MaskedSource):
    """Noise, with masks that are what a model names it, but for a third of the pixels; a fifth class never occurs."""

    class_names = ("red circle", "sea", "blue star", "sky", "grass")

    def __init__(self, model: PredictorModel, method: str) -> None:
        self.segmenter = Segmenter(model.predictor, self.class_names, method, templates=TEMPLATES)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Pair:
        generator = torch.Generator().manual_seed(index)
        return Pair(torch.randint(0, 256, (3, 32, 40 + index), dtype=torch.uint8, generator=generator), (), str(index))

    def mask(self, index: int) -> Tensor:
        labels, generator = self.segmenter(self[index].image).labels, torch.Generator().manual_seed(100 + index)  # type: ignore[arg-type]
        given = torch.tensor([0, 1, 2, 3, BACKGROUND, UNLABELLED])
        other = given[torch.randint(0, len(given), labels.shape, generator=generator)]
        return labels.where((torch.rand(labels.shape, generator=generator) < 0.7) & (labels != 4), other)


@pytest.mark.parametrize("background", [False, True])
def test_miou_equals_loops(model: PredictorModel, background: bool) -> None:
    source = Nearly(model, "sclip")
    dataset = EvaluationSet(source, source.class_names, TEMPLATES)
    threshold = 0.0
    if background:  # such that part of the pixels are like none
        best = [(model.scale * source.segmenter.scores(source[place].image)).softmax(dim=0).amax(dim=0) for place in range(5)]  # type: ignore[arg-type]
        threshold = float(torch.cat([part.flatten() for part in best]).quantile(0.3))
    found = Segmentation("sclip", background=background, threshold=threshold).evaluate(subject(model, dataset))
    segmenter = Segmenter(model.predictor, source.class_names, "sclip", templates=TEMPLATES, threshold=threshold)
    named, true = [], []
    for place in range(len(source)):
        labels, mask = segmenter(source[place].image).labels, source.mask(place)  # type: ignore[arg-type]
        named.append(labels.where(labels != NOTHING, 5))
        true.append(mask.where(mask != BACKGROUND, 5 if background else UNLABELLED))
    miou, pixels, each = looped_iou(named, true, 5 + background)
    assert 0.1 < miou < 0.9 and len(each) > 2
    assert abs(found.metrics["miou"] - miou) < 1e-6
    assert abs(found.metrics["pixel_accuracy"] - pixels) < 1e-6
    names = [*source.class_names, "background"]
    own = {key: value for key, value in found.metrics.items() if key.startswith("iou/")}
    assert own.keys() == {f"iou/{names[label]}" for label in each}
    assert all(abs(own[f"iou/{names[label]}"] - value) < 1e-6 for label, value in each.items())


def test_pictures_in_another_order_have_the_same_miou(model: PredictorModel) -> None:
    source = Nearly(model, "naclip")
    dataset = EvaluationSet(source, source.class_names, TEMPLATES)
    other = EvaluationSet(Subset(source, [3, 1, 0, 2, 4]), source.class_names, TEMPLATES)
    one, same = (Segmentation().evaluate(subject(model, found)).metrics for found in (dataset, other))
    assert one.keys() == same.keys() and all(abs(one[key] - same[key]) < 1e-6 for key in one)
    assert Segmentation(limit=2).evaluate(subject(model, dataset)).metrics != one


def test_a_set_from_folders(model: PredictorModel, tmp_path: Path) -> None:
    dataset = open_evaluation_set(
        {"name": "masks", "path": str(voc(tmp_path)), "layout": "voc", "templates": "a photo of a {}"}
    )
    result = Segmentation().evaluate(subject(model, dataset))
    assert 0 <= result.metrics["miou"] <= 1
    assert [entry["place"] for entry in result.details["shown"]] == [0, 1]
    sections = Segmentation().sections({"small": result}, dataset)
    assert len(sections[1].figures) == 2
    pointed = Localization().evaluate(subject(model, dataset))
    assert pointed.metrics["objects"] == 3
    assert Localization().sections({"small": pointed}, dataset)[0].table is not None


@pytest.mark.parametrize("contrast", [True, False])
def test_pointing_and_auc_equal_loops(model: PredictorModel, contrast: bool) -> None:
    dataset = scenes()
    found = Localization("clearclip", contrast=contrast).evaluate(subject(model, dataset))
    segmenter = Segmenter(model.predictor, dataset.class_names, "clearclip", templates=TEMPLATES, contrast=contrast)
    source: Any = dataset.source
    hits, areas = [], []
    for place in range(len(source)):
        scores, mask = segmenter.scores(source[place].image).double(), source.mask(place)
        for label in source.labels(place):
            own, inside = scores[label].flatten().tolist(), (mask == label).flatten().tolist()
            hits.append(inside[own.index(max(own))])
            wins = sum(
                (a > b) + 0.5 * (a == b)
                for a, i in zip(own, inside, strict=True)
                if i
                for b, j in zip(own, inside, strict=True)
                if not j
            )
            areas.append(wins / (sum(inside) * (len(inside) - sum(inside))))
    assert found.metrics["objects"] == len(hits) == 12
    assert abs(found.metrics["pointing"] - sum(hits) / len(hits)) < 1e-9 and found.per_image == [float(hit) for hit in hits]
    assert abs(found.metrics["auc"] - sum(areas) / len(areas)) < 1e-6
    assert 0.005 < found.chance["pointing"] < 0.2 and found.chance["auc"] == 0.5


def test_a_perfect_map_points_and_parts() -> None:
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[1:3, 2:5] = True
    everywhere = torch.ones(6, 6, dtype=torch.bool)
    assert localized(inside.float(), inside, everywhere) == (True, 1.0)
    assert localized(-inside.float(), inside, everywhere) == (False, 0.0)
    assert localized(torch.zeros(6, 6), inside, everywhere)[1] == 0.5
    assert localized(torch.ones(6, 6), everywhere, everywhere) == (True, None)
    best_unknown = torch.zeros(6, 6)
    best_unknown[5, 5] = 2
    assert localized(best_unknown + inside.float(), inside, everywhere & (best_unknown == 0)) == (True, 1.0)


class Other(EvaluatedModel):
    scale = 10.0

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(image), 1), torch.ones(len(image), 1)

    def encode_text(self, texts: Any, batch_size: int = 256) -> Tensor:
        return torch.ones(len(texts), 1)


def test_errors(model: PredictorModel) -> None:
    plain = open_evaluation_set({"name": "synthetic", "size": 4, "image_size": 32, "held_out": True})
    for protocol in (Segmentation(), Localization()):
        with pytest.raises(InputError, match="SyntheticScenes has no masks, which this protocol needs"):
            protocol.evaluate(subject(model, plain))
        with pytest.raises(InputError, match="other is a Other, which has no features of places"):
            protocol.evaluate(subject(Other("other", 32), scenes()))
    few = EvaluationSet(SyntheticObjects("test", size=4, image_size=32), ["a", "b"], TEMPLATES)
    with pytest.raises(InputError, match=r"has class \d+, and there are 2 class_names: give one for each number"):
        Segmentation().evaluate(subject(model, few))
    with pytest.raises(InputError, match="background True and threshold 0.0: background is what stays below"):
        Segmentation(background=True)
    with pytest.raises(InputError, match="segmentation's limit 0 must be"):
        Segmentation(limit=0)
    with pytest.raises(InputError, match="localization's limit 0 must be"):
        Localization(limit=0)

    class Empty(SyntheticObjects):
        def mask(self, index: int) -> Tensor:
            return torch.full((32, 32), BACKGROUND)

    class Odd(SyntheticObjects):
        def mask(self, index: int) -> Tensor:
            return torch.zeros(31, 32, dtype=torch.long)

    assert issubclass(Empty, MaskedSource)
    names = scenes().class_names
    with pytest.raises(InputError, match="no objects to point at: all their masks are background"):
        Localization().evaluate(subject(model, EvaluationSet(Empty("test", 2, image_size=32), names, TEMPLATES)))
    with pytest.raises(InputError, match=r"is \(32, 32\) and its mask \(31, 32\): they must be of one size"):
        Localization().evaluate(subject(model, EvaluationSet(Odd("test", 2, image_size=32), names, TEMPLATES)))
