"""Findings: probabilities and areas against scikit-learn in float64, labels of tables, and a suite with the report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from small import small_module

from lightning_clip import InputError
from lightning_clip.data import TableSource
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.multilabel import (
    Multilabel,
    area_under_roc,
    average_precision,
    pair_probabilities,
)
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.evaluation.summary import write_summary
from lightning_clip.prompts.evaluation_sets import EvaluationSet

NAMES = ["Edema", "Mass", "Nodule"]
RNG = np.random.default_rng(3)


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(RNG.normal(size=shape), dtype=torch.float32), dim=-1)


class TestMeasures:
    def test_probabilities_are_a_softmax_over_the_pair(self) -> None:
        image, yes, no = unit(9, 6), unit(2, 3, 6), unit(2, 3, 6)
        wanted = np.zeros((9, 3))
        for t in range(2):
            for n in range(9):
                for c in range(3):
                    pair = np.exp(20.0 * np.array([image[n].double() @ own[t, c].double() for own in (yes, no)]))
                    wanted[n, c] += pair[0] / pair.sum() / 2
        assert np.allclose(pair_probabilities(image, yes, no, 20.0).numpy(), wanted, atol=1e-12)

    @pytest.mark.parametrize("kind", ["plain", "ties", "large", "near"])
    def test_areas_are_scikit_learns(self, kind: str) -> None:
        for _ in range(5):
            scores = RNG.normal(size=200) if kind != "ties" else RNG.integers(0, 4, 200).astype(float)
            scores = {"large": 1e6 * scores, "near": 0.5 + 1e-12 * scores}.get(kind, scores)
            truth = RNG.integers(0, 2, 200)
            given = torch.tensor(scores), torch.tensor(truth)
            assert area_under_roc(*given) == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
            assert average_precision(*given) == pytest.approx(average_precision_score(truth, scores), abs=1e-6)

    def test_what_all_or_none_have_has_no_area(self) -> None:
        scores = torch.rand(5)
        assert area_under_roc(scores, torch.ones(5).long()) is None and area_under_roc(scores, torch.zeros(5).long()) is None
        assert average_precision(scores, torch.zeros(5).long()) is None


def subject(label: torch.Tensor, image: torch.Tensor, prompts: dict[str, torch.Tensor], names: list[str] = NAMES) -> Any:
    """A model that gives these features for texts and pictures."""
    dataset = EvaluationSet(None, names, ["{}"], multilabel=True)  # type: ignore[arg-type]
    features = Features(image, torch.zeros(len(image), 0), label, torch.arange(len(image)))

    def template_vectors(class_names: Any, templates: Any) -> torch.Tensor:
        return torch.stack([torch.stack([prompts[template.format(name)] for name in class_names]) for template in templates])

    return SimpleNamespace(dataset=dataset, scale=10.0, features=lambda: features, template_vectors=template_vectors)


class TestProtocol:
    def test_denial_corrects_a_class_that_everything_resembles(self) -> None:
        """Pictures that lie near all words of lungs: only the difference between "X" and "no X" tells them apart."""
        count = 400
        truth = torch.tensor(RNG.integers(0, 2, (count, 1)))
        common = torch.tensor(RNG.normal(size=count))  # how much of a lung a picture is, whatever it shows
        image = torch.stack([common, truth[:, 0] + 0.3 * torch.tensor(RNG.normal(size=count))], dim=1).float()
        prompts = {"Edema": torch.tensor([1.0, 0.1]), "no Edema": torch.tensor([1.0, -0.1])}
        found = Multilabel().evaluate(subject(truth, image, prompts, ["Edema"])).metrics
        difference = (image @ (prompts["Edema"] - prompts["no Edema"])).numpy()
        assert (
            found["auroc"] == pytest.approx(roc_auc_score(truth[:, 0].numpy(), difference), abs=1e-5) and found["auroc"] > 0.95
        )
        assert 0.4 < found["auroc_alone"] < 0.7

    def test_means_and_findings_without_images(self) -> None:
        truth = torch.tensor(RNG.integers(0, 2, (60, 3)))
        truth[:, 2] = 0
        prompts = {text: unit(8) for name in NAMES for text in (name, f"no {name}")}
        result = Multilabel().evaluate(subject(truth, unit(60, 8), prompts))
        found = result.metrics
        assert set(found) >= {"auroc/Edema", "auroc/Mass", "average_precision/Mass"} and "auroc/Nodule" not in found
        assert found["auroc"] == pytest.approx((found["auroc/Edema"] + found["auroc/Mass"]) / 2)
        assert result.chance["mean_average_precision"] == pytest.approx(float(truth[:, :2].double().mean()))
        rows = Multilabel().sections({"m": result}, None)[0].table.rows  # type: ignore[arg-type, union-attr]
        assert list(rows[2]) == ["Nodule", "0.0 %", "no images", "no images"]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"negative": ["no {}", "without {}"]}, r"1 positive and 2 negative templates are no pairs"),
            ({"negative": ["none"]}, r"negative \['none'\] must be a list of templates with \{\}"),
            ({"positive": "{}"}, r"positive '\{\}' must be a list"),
        ],
    )
    def test_mistakes(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Multilabel(**given)

    def test_one_class_an_image_is_another_protocol(self) -> None:
        with pytest.raises(InputError, match=r"for several classes an image: set multilabel: true"):
            Multilabel().evaluate(subject(torch.zeros(4).long(), unit(4, 8), {}))
        prompts = {text: unit(8) for name in NAMES for text in (name, f"no {name}")}
        with pytest.raises(InputError, match=r"no finding is there in some images and absent in others"):
            Multilabel().evaluate(subject(torch.ones(4, 3).long(), unit(4, 8), prompts))


def chest(folder: Path, cells: list[dict[str, Any]], kind: str = "csv") -> Path:
    rows = []
    for number, own in enumerate(cells):
        Image.fromarray(RNG.integers(0, 256, (24, 24), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", **own})
    path = folder / f"chest.{kind}"
    if kind == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestLabels:
    def test_columns(self, tmp_path: Path) -> None:
        table = chest(tmp_path, [{"Edema": "1.0", "Mass": ""}, {"Edema": "-1.0", "Mass": "yes"}, {"Edema": 0, "Mass": "False"}])
        source = TableSource(str(table), caption_column=None, label_columns=["Edema", "Mass"])
        assert [source[number].metadata["labels"] for number in range(3)] == [[0], [1], []]
        assert source.class_names == ["Edema", "Mass"] and source[0].label is None and "label = Edema, Mass" in source.layout

    def test_numbers_and_nothing_of_json(self, tmp_path: Path) -> None:
        cells = [{"Edema": 1, "Mass": None}, {"Edema": True, "Mass": 0.0}, {"Edema": float("nan"), "Mass": 2}]
        source = TableSource(str(chest(tmp_path, cells, "jsonl")), caption_column=None, label_columns=["Edema", "Mass"])
        assert [source[number].metadata["labels"] for number in range(3)] == [[0], [0], [1]]

    def test_a_list_in_one_column(self, tmp_path: Path) -> None:
        table = chest(tmp_path, [{"found": "Mass|Edema"}, {"found": "No Finding"}, {"found": "Nodule"}])
        source = TableSource(str(table), caption_column=None, label_column="found", label_separator="|")
        assert source.class_names == ["Edema", "Mass", "Nodule"]
        assert [source[number].metadata["labels"] for number in range(3)] == [[0, 1], [], [2]]

    def test_mistakes(self, tmp_path: Path) -> None:
        table = str(chest(tmp_path, [{"found": "No Finding", "Mass": "maybe"}]))
        with pytest.raises(InputError, match=r"column 'found' of .* lists no class"):
            TableSource(table, caption_column=None, label_column="found", label_separator="|")
        with pytest.raises(InputError, match=r"has no column 'Masss': did you mean 'Mass'"):
            TableSource(table, caption_column=None, label_columns=["Masss"])
        with pytest.raises(InputError, match=r"label_columns names the columns of several classes"):
            TableSource(table, caption_column=None, label_columns=["Mass"], label_column="found")
        with pytest.raises(ValueError, match="label is neither a number nor yes or no"):
            TableSource(table, caption_column=None, label_columns=["Mass"])[0]


def test_a_suite_and_its_report(tmp_path: Path) -> None:
    cells = [{"patient": n // 2, "Edema": n % 2, "Mass": int(n % 3 == 0)} for n in range(24)]
    table = chest(tmp_path, cells)
    entry = {"name": str(table), "caption_column": None, "label_columns": ["Edema", "Mass"], "multilabel": True}
    entry |= {"split": {"by": "patient", "test": 0.5, "part": "test"}, "protocols": ["multilabel", "zero_shot"]}
    suite = Suite({"chest": entry}, output=str(tmp_path / "out"), batch_size=8, trainer={"accelerator": "cpu", "devices": 1})
    outcome = run_suite(suite, [PredictorModel(small_module().predictor)])
    assert not outcome.failures
    results = {name: found["model"] for name, found in outcome.results["chest"].items()}
    assert {"auroc/Edema", "average_precision/Mass"} <= set(results["multilabel"].metrics)
    section = Multilabel().sections({"m": results["multilabel"]}, outcome.datasets["chest"])[0]
    assert "by the prompts without those that deny them" in section.text and section.figures[0][0] == "ROC curves"
    page = write_summary(outcome, tmp_path / "report").read_text()
    assert "ROC curves" in page and "Edema" in page
