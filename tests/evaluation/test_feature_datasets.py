"""Features as Hugging Face datasets: out and in they are the same, to the bit; those of others are read with what they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.test_suite import CPU, SCENES, shown
from small import small_module
from torch.nn.functional import normalize

from lightning_clip import InputError
from lightning_clip.data import SyntheticScenes
from lightning_clip.data.sources import pair_sources
from lightning_clip.evaluation.extraction import extract
from lightning_clip.evaluation.feature_datasets import (
    features_from_dataset,
    features_to_dataset,
    write_dataset,
)
from lightning_clip.evaluation.features import Features, load_features, save_features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.probe import fit_probe
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Of scenes, by a small model."""
    model = PredictorModel(small_module().predictor, "small").eval()
    images = Images(SyntheticScenes("test", 12, image_size=32), model.transform())  # type: ignore[operator]
    return extract(model, images, tmp_path_factory.mktemp("features") / "f.safetensors", trainer=CPU)  # type: ignore[arg-type]


def same(first: Features, second: Features) -> None:
    for name in ("image_features", "backbone", "label", "index", "text_features", "text_index"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.keys == second.keys


def test_out_and_in(features: Features, tmp_path: Path) -> None:
    """By way of the disk, as it would go by way of the hub."""
    write_dataset(features_to_dataset(features), tmp_path / "out")
    found = datasets.load_from_disk(tmp_path / "out")
    assert found.num_rows == 12 and found.features["image_features"].length == 16 and len(found[0]["text_features"]) == 1
    same(features_from_dataset(found), features)
    with pytest.raises(InputError, match="out' exist and are never replaced"):
        write_dataset(found, tmp_path / "out")


def test_the_page(features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_features(features, tmp_path / "kept.safetensors")
    scope: dict[str, Any] = {"kept": tmp_path / "kept.safetensors"}
    exec(shown("datasets"), scope)
    same(scope["features"], features)
    same(load_features(tmp_path / "kept.safetensors"), features)


def test_several_captions_and_classes(tmp_path: Path) -> None:
    """Places have gaps where images could not be read; an image may have no caption left."""
    rows = normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    places, label = torch.tensor([1, 4, 9]), torch.tensor([[1, 0], [-1, 1], [0, 0]])
    several = Features(rows[:3], torch.randn(3, 5), label, places, ["a", "b", "c"], rows, torch.tensor([1, 1, 9, 9]))
    same(features_from_dataset(features_to_dataset(several)), several)
    save_features(features_from_dataset(features_to_dataset(several)), tmp_path / "f.safetensors")
    same(load_features(tmp_path / "f.safetensors"), several)


def test_features_of_others() -> None:
    """Not normalised, with a name for each and nothing else; probes learn from them."""
    values = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[20:, 0] += 9
    label = [0] * 20 + [1] * 20
    found = features_from_dataset(datasets.Dataset.from_dict({"image_features": values.tolist(), "label": label}))
    torch.testing.assert_close(found.image_features.norm(dim=1), torch.ones(40))
    assert found.backbone.shape == (40, 6) and found.index.tolist() == list(range(40)) and not found.text_features.numel()
    probe = fit_probe(found.backbone, found.label, 2, strength=1e-3)
    assert (probe.predict(found.backbone) == found.label).float().mean() == 1
    assert features_from_dataset(datasets.Dataset.from_dict({"image_features": [[1.0, 0.0]]})).label.tolist() == [-1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_feature": [[1.0]]}, "no column 'image_features': did you mean 'image_feature'"),
        ({"image_features": [[1.0], [1.0, 2.0]]}, "'image_features' must hold one vector of numbers a row"),
        ({"image_features": ["a", "b"]}, "'image_features' must hold one vector of numbers a row"),
        ({"image_features": [1.0, 2.0]}, r"one vector of numbers a row, and has the shape \(2,\)"),
        ({"image_features": [[1.0, 0.0]], "text_features": [[1.0]]}, "text_features have 1 numbers and its image_features 2"),
    ],
)
def test_mistakes(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        features_from_dataset(datasets.Dataset.from_dict(columns))


def test_a_suite_reads_them(features: Features, tmp_path: Path) -> None:
    """Put where a suite keeps its features, they are taken, and nothing is encoded."""
    sets = {"scenes": {**SCENES, "held_out": False, "size": 12, "protocols": ["retrieval"]}}
    model = PredictorModel(small_module().predictor, "small").eval()
    suite = Suite(sets, output=str(tmp_path), batch_size=16, trainer=CPU)  # type: ignore[arg-type]
    first = run_suite(suite, [model])  # type: ignore[list-item]
    (kept,) = tmp_path.glob("features/*/scenes-test-*.safetensors")
    write_dataset(features_to_dataset(load_features(kept)), tmp_path / "published")
    kept.unlink()
    for result in tmp_path.glob("results/*.json"):
        result.unlink()
    save_features(features_from_dataset(datasets.load_from_disk(tmp_path / "published")), kept)
    second = run_suite(suite, [model])  # type: ignore[list-item]
    assert first.extracted and not second.extracted
    assert second.results["scenes"]["retrieval"]["small"].metrics == first.results["scenes"]["retrieval"]["small"].metrics


def test_training_reads_them(features: Features, tmp_path: Path) -> None:
    """As a further column of pairs, for a tower of one's own."""
    write_dataset(features_to_dataset(features), tmp_path / "out")
    options = {"image_column": None, "caption_column": None, "columns": ["image_features"], "label_column": "label"}
    source = pair_sources.build({"name": "huggingface", "path": str(tmp_path / "out"), **options})
    pair = source[3]
    assert torch.allclose(torch.as_tensor(pair.columns["image_features"]).float(), features.image_features[3])
    assert pair.label == features.label[3]
