"""Lines of standard models against scikit-learn, and accuracies under shift by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from subjects import BySimilarity
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.effective_robustness import fit_line, logit, read_reference
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.evaluation.protocols.shift import Shift
from lightning_clip.prompts.evaluation_sets import EvaluationSet

NAMES = ["cat", "dog", "cow"]
COLUMNS = normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(2)), dim=0)


class Fake(BySimilarity):
    """Features around their class; under shift farther away."""

    scale, device = 6.0, torch.device("cpu")

    def __init__(self, names: list[str] = NAMES, noise: float = 0.5) -> None:
        self.dataset, self.noise = EvaluationSet(None, names, ["{}"]), noise  # type: ignore[arg-type]

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        classes, many = len(self.dataset.class_names), 300
        noise = self.noise * (2 if corruption else 1)
        generator = torch.Generator().manual_seed(len(split) + 100 * bool(corruption))
        label = torch.arange(many) % classes
        own = [NAMES.index(str(name)) for name in self.dataset.class_names]
        vectors = normalize(COLUMNS.T[own][label] + noise * torch.randn(many, 8, generator=generator), dim=-1)
        return Features(vectors, vectors, label, torch.arange(many), [str(n) for n in range(many)])

    def classifier(self, class_names: Any = None, templates: Any = None) -> Tensor:
        return COLUMNS[:, [NAMES.index(str(name)) for name in self.dataset.class_names]]

    def other(self, name: str, spec: Any) -> Fake:
        return Fake(spec["class_names"], noise=1.0)


def test_line_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    points = [(float(a), float(b)) for a, b in rng.uniform(0.1, 0.9, (12, 2))]
    x, y = (np.array([np.log(p[axis] / (1 - p[axis])) for p in points]) for axis in (0, 1))
    reference = LinearRegression().fit(x[:, None], y)
    line = fit_line(points)
    assert line.slope == pytest.approx(reference.coef_[0]) and line.intercept == pytest.approx(reference.intercept_)
    expected = 1 / (1 + np.exp(-reference.predict([[logit(0.7)]])[0]))
    assert line.effective(0.7, 0.65) == pytest.approx(0.65 - expected)
    assert logit(0.0) == pytest.approx(-logit(1.0))  # finite


def test_against_a_table(tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("model,reference,pets/reference,noise,pets\na,0.5,0.6,0.3,0.6\nb,0.7,0.8,0.5,0.8\nc,0.9,0.95,0.8,\n")
    shifted = {"noise": "gaussian_noise:3", "pets": {"class_names": ["dog", "cat"]}}
    subject, protocol = Fake(), Shift(shifted, str(table))
    metrics = protocol.evaluate(subject).metrics  # type: ignore[arg-type]
    clean, noisy = (subject.features("test", name) for name in (None, "gaussian_noise:3"))
    accuracy = float(((clean.image_features @ COLUMNS).argmax(dim=1) == clean.label).double().mean())
    shift = float(((noisy.image_features @ COLUMNS).argmax(dim=1) == noisy.label).double().mean())
    assert (
        metrics["accuracy"] == pytest.approx(accuracy)
        and metrics["noise/accuracy"] == pytest.approx(shift)
        and shift < accuracy
    )
    line = fit_line([(0.5, 0.3), (0.7, 0.5), (0.9, 0.8)])
    assert metrics["noise/effective"] == pytest.approx(shift - line.expected(accuracy))
    assert metrics["noise/reference"] == pytest.approx(accuracy)  # a corruption has all classes
    pets = among_pets(clean, COLUMNS.double().numpy())
    assert pets > accuracy and metrics["pets/reference"] == pytest.approx(pets)  # two classes are easier than three
    assert metrics["pets/effective"] == pytest.approx(metrics["pets/accuracy"] - pets)  # the line through (x, x)
    both = (metrics["noise/effective"] + metrics["pets/effective"]) / 2
    assert not [name for name in metrics if any(other.startswith(f"{name}/") for other in metrics)]  # loggers make files
    assert metrics["effective_robustness"] == pytest.approx(both) and next(iter(metrics)) == "effective_robustness"


def among_pets(features: Features, columns: np.ndarray, bias: Any = (0.0, 0.0, 0.0)) -> float:
    """Accuracy on the images of cats and dogs, classified among those two: a loop over images."""
    right = []
    for vector, label in zip(features.image_features.double().numpy(), features.label.tolist(), strict=True):
        if NAMES[label] in ("cat", "dog"):
            scores = {name: vector @ columns[:, NAMES.index(name)] + bias[NAMES.index(name)] for name in ("dog", "cat")}
            right.append(max(scores, key=lambda name: scores[name]) == NAMES[label])
    return float(np.mean(right))


def test_probes_are_measured_over_the_classes_of_the_shift() -> None:
    subject = Fake()
    result = Shift({"pets": {"class_names": ["dog", "cat"]}}).evaluate(subject)  # type: ignore[arg-type]
    train, test = subject.features("train"), subject.features()
    probe = LogisticRegression(C=1.0, max_iter=5000, tol=1e-10).fit(train.backbone.double().numpy(), train.label.numpy())
    expected = among_pets(test, probe.coef_.T, probe.intercept_)
    assert result.details["points"]["pets"][-1][0] == pytest.approx(expected, abs=0.011)  # two images of 200 on the border


def test_a_table_without_the_reference_of_a_part(tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("model,reference,pets\na,0.5,0.5\nb,0.7,0.7\n")
    with pytest.raises(InputError, match=r"no column 'pets/reference' \(accuracies on the set itself over the classes of the"):
        Shift({"pets": {"class_names": ["dog", "cat"]}}, str(table)).evaluate(Fake())  # type: ignore[arg-type]
    everything = Shift({"pets": {"class_names": ["dog", "cow", "cat"]}}, str(table))
    metrics = everything.evaluate(Fake()).metrics  # type: ignore[arg-type]
    assert metrics["pets/reference"] == pytest.approx(metrics["accuracy"])  # all classes, in another order
    without = Fake()
    cow_only = without.features().subset(without.features().label == 2)
    without.features = lambda split="test", corruption=None: cow_only  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no test image of the classes of shifted set 'pets'"):
        Shift({"pets": {"class_names": ["dog", "cat"]}}, str(table)).evaluate(without)  # type: ignore[arg-type]


def test_against_probes() -> None:
    protocol, subject = Shift({"noise": "jpeg:3", "pets": {"class_names": ["dog", "cat"]}}), Fake()
    result = protocol.evaluate(subject)  # type: ignore[arg-type]
    for points in result.details["points"].values():
        assert len(points) == 6 and points[-1][0] > points[0][0]  # more labels, better probes
    kept = Result(result.metrics, {}, None, result.details)
    (section,) = protocol.sections({"one": kept, "two": kept}, subject.dataset)
    assert len(section.table.rows) == 6 and [name for name, _ in section.figures] == ["noise", "pets"]  # type: ignore[union-attr]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shift needs shifted: names with a corruption"):
        Shift()
    with pytest.raises(InputError, match="unknown corruption 'jpg': did you mean 'jpeg'"):
        Shift({"a": "jpg:1"})
    with pytest.raises(InputError, match="shifted set 'pets' has a class 'dgo' that the set lacks: did you mean 'dog'"):
        Shift({"pets": {"class_names": ["dgo"]}}).evaluate(_Wrong())  # type: ignore[arg-type]
    table = tmp_path / "models.csv"
    table.write_text("model,reference,noise\na,76.2,0.3\nb,0.7,0.5\n")
    with pytest.raises(InputError, match=r"'76.2' is no share in \[0, 1\]; 76.2 % is 0.762"):
        read_reference(str(table), ["noise"])
    with pytest.raises(InputError, match="no column 'nois': did you mean 'noise'"):
        read_reference(str(table), ["nois"])
    with pytest.raises(InputError, match="a reference line needs two models of different accuracy"):
        fit_line([(0.5, 0.4), (0.5, 0.6)])


class _Wrong(Fake):
    def other(self, name: str, spec: Any) -> Fake:
        wrong = Fake(["dog"])
        wrong.dataset = EvaluationSet(None, spec["class_names"], ["{}"])  # type: ignore[arg-type]
        return wrong
