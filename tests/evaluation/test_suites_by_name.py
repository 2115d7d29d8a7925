"""Suites by name: measures as the authors of their sets report them, a missing set is one line, published figures are cited."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompts.named_layouts import LAYOUTS, shards
from small import save_checkpoint
from subjects import BySimilarity
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.commands.evaluate import SUITES
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.multilabel import eleven_point_precision, multilabel_figures, roc_auc
from lightning_clip.evaluation.protocols.choices import Choices
from lightning_clip.evaluation.protocols.linear_probe import LinearProbe
from lightning_clip.evaluation.protocols.pairs import Pairs
from lightning_clip.evaluation.protocols.shift import Shift
from lightning_clip.evaluation.protocols.zero_shot import ZeroShot
from lightning_clip.evaluation.published_figures import compared, known_model, published_figures, sources
from lightning_clip.evaluation.run_suite import Outcome, run_suite
from lightning_clip.evaluation.shipped import BUILT_IN
from lightning_clip.evaluation.suite import Suite, built_protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets import known_sets, read_prompt_file

CPU = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
MEASURES = {
    "fgvc_aircraft": "mean_per_class",
    "caltech101": "mean_per_class",
    "flowers102": "mean_per_class",
    "pets": "mean_per_class",
    "voc2007": "eleven_point_map",
    "hateful_memes": "roc_auc",
    "kinetics700": "top1_top5",
}


class Brightness(EvaluatedModel):
    """Sees how bright a picture is, and reads a number in a text."""

    scale = 100.0

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        value = image.float().mean(dim=(1, 2, 3)) / 255
        features = torch.nn.functional.normalize(torch.stack([value, 1 - value], dim=1), dim=1)
        return features, features

    def encode_text(self, texts: Any, batch_size: int = 256) -> Tensor:
        value = torch.tensor([float((re.findall(r"\d+", text) or ["0"])[0]) / 255 for text in texts])
        return torch.nn.functional.normalize(torch.stack([value, 1 - value], dim=1), dim=1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_CLIP_DATASETS", str(tmp_path / "sets"))
    return tmp_path / "sets"


class TestShipped:
    @pytest.mark.parametrize("name", sorted(set(SUITES) - {"limits"}))
    def test_sets_and_protocols_exist(self, name: str) -> None:
        suite = Suite.read(name)
        for key, spec in suite.sets.items():
            assert spec["name"] in known_sets() and spec["name"] in evaluation_sets.names()
            assert [label for label, _ in built_protocols(spec["protocols"])], key
            if "prompts" in spec:
                words, templates = read_prompt_file(spec["prompts"])
                assert len(words) == known_sets()[spec["name"]].classes and templates
        fetched = suite.fetching()
        assert list(fetched.sets) == list(suite.sets) and any("download" in spec for spec in fetched.sets.values())
        assert suite.output == f"evaluation/{name.replace('+', '_plus')}"

    def test_as_the_command_lists_them(self) -> None:
        assert tuple(sorted(BUILT_IN)) == SUITES
        with pytest.raises(InputError, match="suite 'paper-27' is neither a file nor a suite by name: did you mean 'paper27'"):
            Suite.read("paper-27")

    def test_the_papers_measures(self) -> None:
        suite = Suite.read("paper27")
        assert len(suite.sets) == 27
        for name, spec in suite.sets.items():
            ((label, protocol),) = built_protocols(spec["protocols"])
            assert label == "linear_probe" and protocol.measure == MEASURES.get(name, "")  # type: ignore[attr-defined]
        assert set(suite.sets) < set(Suite.read("zero_shot").sets) and len(Suite.read("vtab+").sets) == 35

    def test_shifted_sets_are_fetched_too(self) -> None:
        shifts = Suite.read("natural_shifts").fetching().sets["imagenet"]["protocols"]
        assert shifts[0] == "zero_shot" and shifts[1]["shifted"] == {"v2": {"download": True, "name": "imagenet_v2"}}


class TestMeasures:
    def test_eleven_points_by_loops(self) -> None:
        rng = np.random.default_rng(0)
        scores, labels = rng.random((40, 3)), rng.integers(-1, 2, (40, 3))
        expected = []
        for column in range(3):
            sure = labels[:, column] >= 0
            order = np.argsort(-scores[sure, column])
            truth = labels[sure, column][order]
            recall = [truth[: k + 1].sum() / truth.sum() for k in range(len(truth))]
            precision = [truth[: k + 1].sum() / (k + 1) for k in range(len(truth))]
            best = [max(p for p, r in zip(precision, recall, strict=True) if r >= t / 10 - 1e-12) for t in range(11)]
            expected.append(sum(best) / 11)
        assert eleven_point_precision(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(np.mean(expected))

    def test_unsure_images_do_not_count(self) -> None:
        sklearn = pytest.importorskip("sklearn.metrics")
        generator = torch.Generator().manual_seed(0)
        scores, labels = torch.randn(50, 4, generator=generator), torch.randint(-1, 2, (50, 4), generator=generator)
        metrics, chance = multilabel_figures(scores, labels)
        sure = [labels[:, c] >= 0 for c in range(4)]
        expected = [sklearn.average_precision_score(labels[sure[c], c], scores[sure[c], c]) for c in range(4)]
        assert metrics["mean_average_precision"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert chance["mean_average_precision"] == pytest.approx(
            np.mean([(labels[:, c] == 1).sum() / sure[c].sum() for c in range(4)])
        )

    def test_area_under_the_roc(self) -> None:
        sklearn = pytest.importorskip("sklearn.metrics")
        generator = torch.Generator().manual_seed(1)
        scores = torch.randint(0, 9, (60,), generator=generator).float()
        label = torch.randint(0, 2, (60,), generator=generator)
        assert roc_auc(scores, label) == pytest.approx(sklearn.roc_auc_score(label, scores))
        with pytest.raises(InputError, match="needs images of both classes"):
            roc_auc(scores, torch.zeros(60))


class Subject(BySimilarity):
    """Features of a few classes, for probes and zero-shot."""

    device = torch.device("cpu")

    def __init__(self, train: Features, test: Features, names: list[str], multilabel: bool = False) -> None:
        self.parts = {"train": train, "test": test}
        self.dataset = EvaluationSet([], names, ["{}"], multilabel=multilabel)  # type: ignore[arg-type]

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        return self.parts[split]

    def classifier(self, class_names: Any = None, templates: Any = None) -> Tensor:
        return torch.eye(len(self.dataset.class_names))


def made(label: Tensor, classes: int, seed: int, noise: float = 0.8) -> Features:
    """Features near a class's own direction, or near the sum of several."""
    centre = torch.eye(classes)[label] if label.ndim == 1 else label.clamp(min=0).float()
    vectors = centre + noise * torch.randn(len(label), classes, generator=torch.Generator().manual_seed(seed))
    return Features(vectors, vectors, label, torch.arange(len(label)), [str(n) for n in range(len(label))])


class TestProtocols:
    def test_probe_of_several_labels(self) -> None:
        """Each class is scikit-learn's logistic regression of it, and better than chance."""
        linear_model = pytest.importorskip("sklearn.linear_model")
        from lightning_clip.evaluation.probe import fit_probe

        generator = torch.Generator().manual_seed(0)
        labels = [(torch.rand(n, 4, generator=generator) < 0.4).long() for n in (120, 60)]
        train, test = (made(label, 4, seed) for seed, label in enumerate(labels))
        probe = fit_probe(train.backbone, train.label, 4, 1.0)
        for c in range(4):
            other = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(train.backbone, train.label[:, c])
            assert torch.allclose(probe.weight[:, c], torch.tensor(other.coef_[0]).double(), atol=1e-4)
            assert float(probe.bias[c]) == pytest.approx(float(other.intercept_[0]), abs=1e-4)
        unsure = train.label.clone()
        unsure[:30, 2] = -1
        some = fit_probe(train.backbone, unsure, 4, 1.0)
        alone = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(train.backbone[30:], train.label[30:, 2])
        assert torch.allclose(some.weight[:, 2], torch.tensor(alone.coef_[0]).double(), atol=1e-4)
        found = LinearProbe(max_iterations=50, measure="eleven_point_map").evaluate(Subject(train, test, list("abcd"), True))  # type: ignore[arg-type]
        assert next(iter(found.metrics)) == "eleven_point_map"
        assert found.metrics["mean_average_precision"] > found.chance["mean_average_precision"] + 0.1

    def test_headlines(self) -> None:
        label = torch.arange(8).repeat(10)
        subject: Any = Subject(made(label, 8, 0), made(label, 8, 1), list("abcdefgh"))
        for protocol in (ZeroShot(measure="top1_top5"), LinearProbe(max_iterations=30, measure="top1_top5")):
            metrics = protocol.evaluate(subject).metrics
            assert next(iter(metrics)) == "top1_top5" and metrics["top1_top5"] == (metrics["top1"] + metrics["top5"]) / 2
        with pytest.raises(InputError, match="measure 'roc_auc' is none of this set"):
            ZeroShot(measure="roc_auc").evaluate(subject)
        two = torch.arange(2).repeat(30)
        binary: Any = Subject(made(two, 2, 2), made(two, 2, 3), ["meme", "hateful meme"])
        for protocol in (ZeroShot(measure="roc_auc"), LinearProbe(max_iterations=30, measure="roc_auc")):
            found = protocol.evaluate(binary)
            assert found.chance["roc_auc"] == 0.5 < found.metrics["roc_auc"] <= 1


def measured(root: Path, folder: Path, name: str, protocol: Any) -> Any:
    LAYOUTS[name](root)
    sets = {name: {"name": name, "protocols": [protocol]}}
    outcome = run_suite(Suite(sets, output=str(folder), trainer=CPU), [Brightness("brightness", 32)])
    assert not outcome.failures, outcome.failures
    ((results),) = outcome.results[name].values()
    sections = next(iter(outcome.protocols[name].values())).sections(results, outcome.datasets[name])
    return results["brightness"], sections


class TestOnSmallCopies:
    def test_pairs(self, root: Path, tmp_path: Path) -> None:
        """The captions "a 0 b" and "b 0 a" are the same to this model, so that it tells no pair apart."""
        found, sections = measured(root, tmp_path / "out", "winoground", "pairs")
        assert found.metrics["text"] == found.metrics["group"] == found.metrics["Object/image"] == 0
        assert found.chance["Relation/group"] == 1 / 6 and len(sections) == 2

    def test_choices_by_class(self, root: Path, tmp_path: Path) -> None:
        found, sections = measured(root, tmp_path / "out", "sugarcrepe", {"name": "choices", "measure": "mean_per_class"})
        assert list(found.metrics)[:2] == ["mean_per_class", "accuracy"] and "class/swap_obj" in found.metrics
        assert sections[0].table is not None

    def test_voc_by_words(self, root: Path, tmp_path: Path) -> None:
        found, _ = measured(root, tmp_path / "out", "voc2007", {"name": "zero_shot", "measure": "eleven_point_map"})
        assert 0 < found.metrics["eleven_point_map"] <= 1

    def test_pairs_refuses(self, root: Path, tmp_path: Path) -> None:
        LAYOUTS["crossmodal3600"](root)
        sets = {"x": {"name": "crossmodal3600", "protocols": ["pairs"]}}
        outcome = run_suite(Suite(sets, output=str(tmp_path), trainer=CPU), [Brightness("brightness", 32)])
        assert "pairs needs one caption for each image" in outcome.failures[0].reason

    def test_shifts(self, root: Path, tmp_path: Path) -> None:
        """ImageNet against its shifts: classes by number, several of ImageNet's for one of ObjectNet's."""
        for name in ("imagenet", "imagenet_v2", "objectnet"):
            LAYOUTS[name](root)
        entries = [
            {"name": "shift", "label": "v2", "shifted": {"v2": "imagenet_v2"}, "reference": "published"},
            {"name": "shift", "label": "none", "shifted": {"v2": "imagenet_v2"}, "reference": "none"},
            {"name": "shift", "label": "objectnet", "shifted": {"objectnet": "objectnet"}, "reference": "none"},
        ]
        sets = {"imagenet": {"name": "imagenet", "protocols": entries}}
        outcome = run_suite(Suite(sets, output=str(tmp_path), trainer=CPU), [Brightness("brightness", 32)])
        (failure,) = outcome.failures  # this small ImageNet has no picture of ObjectNet's classes
        assert failure.protocol == "objectnet" and "no test image of the classes of shifted set" in failure.reason
        found = outcome.results["imagenet"]
        assert {"v2/accuracy", "v2/reference", "v2/effective"} <= set(found["v2"]["brightness"].metrics)
        bare = found["none"]["brightness"].metrics
        assert bare["v2/gap"] == pytest.approx(bare["v2/reference"] - bare["v2/accuracy"]) and "v2/effective" not in bare
        for label in ("v2", "none"):
            protocol = outcome.protocols["imagenet"][label]
            (section,) = protocol.sections(found[label], outcome.datasets["imagenet"])
            assert len(section.figures) == (label == "v2")

    def test_groups_of_classes(self) -> None:
        """A class that stands for two: the higher of their scores, and images of either count."""
        from lightning_clip.evaluation.protocols.shift import _among

        logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 5.0, 4.0], [9.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.0]])
        label = torch.tensor([1, 3, 3, 0])
        assert _among(logits, label, [[1], [2, 3]], "x") == 1  # the third is not among class 0, the fourth of no class
        assert _among(logits, label, [[0, 1], [3]], "x") == pytest.approx(1 / 2)

    def test_parents_need_imagenet(self, root: Path, tmp_path: Path) -> None:
        for name in ("birdsnap", "imagenet_v2"):
            LAYOUTS[name](root)
        sets = {"birdsnap": {"name": "birdsnap", "protocols": [{"name": "shift", "shifted": {"v2": "imagenet_v2"}}]}}
        outcome = run_suite(Suite(sets, output=str(tmp_path), trainer=CPU), [Brightness("brightness", 32)])
        assert "is one of ImageNet's, and the set has 2 classes: give imagenet" in outcome.failures[0].reason

    def test_shift_settings(self) -> None:
        assert Shift({"v2": "imagenet_v2"}, reference="none").reference == "none" and Choices().measure == "" and Pairs().title


class TestPublished:
    def test_every_figure_has_a_source(self) -> None:
        suites = [Suite.read(name) for name in SUITES if name != "limits"]
        measured = {(name, label) for suite in suites for name, spec in suite.sets.items()
                    for label, _ in built_protocols(spec["protocols"])}  # fmt: skip
        for figure in published_figures():
            assert figure.source in sources() and 0 < figure.value < 1
            assert (figure.dataset, figure.protocol) in measured, figure
        assert len({figure.model for figure in published_figures()}) >= 20 and len(published_figures()) > 500
        assert all(known["url"].startswith("https://") for known in sources().values())

    def test_facts(self) -> None:
        figures = {(f.model, f.dataset, f.measure, f.source): f.value for f in published_figures()}
        assert figures["ViT-L-14-336/openai", "imagenet", "top1", "paper"] == 0.762
        assert figures["RN50/openai", "pets", "mean_per_class", "open_clip"] == pytest.approx(0.853, abs=5e-4)
        assert figures["ViT-B-32/openai", "mnist", "top1", "open_clip"] == pytest.approx(0.484, abs=5e-4)

    def test_unknown(self) -> None:
        assert known_model("open_clip:ViT-L-14/openai") == "ViT-L-14/openai"
        with pytest.raises(InputError, match="no figures are published here for weights 'last.ckpt': give --published NAME"):
            known_model("last.ckpt")

    def test_compared(self, root: Path, tmp_path: Path) -> None:
        shards(root / "wds_mnist", [str(number) for number in range(10)])
        sets = {"mnist": {"name": "mnist", "protocols": ["zero_shot"]}}
        outcome = run_suite(Suite(sets, output=str(tmp_path), trainer=CPU), [Brightness("brightness", 32)])
        (found,) = compared(outcome, "brightness", "ViT-B-32/openai")
        ours = outcome.results["mnist"]["zero_shot"]["brightness"].metrics["top1"]
        assert found.ours == ours and found.published.value == 0.4839
        assert compared(Outcome(), "brightness", "ViT-B-32/openai") == []


def test_the_command(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sets are there: they are measured beside published figures, and each missing one is one line."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "last.ckpt")
    shards(root / "wds_mnist", [str(number) for number in range(10)])
    shards(root / "wds_vtab-cifar10", [f"class {number}" for number in range(10)])
    command = [
        "evaluate",
        "--checkpoint",
        "last.ckpt",
        "--suite",
        "vtab+",
        "--data",
        str(root),
        "--published",
        "ViT-B-32/openai",
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    shown = capsys.readouterr()
    assert ended.value.code == 1
    lines = [line for line in shown.err.splitlines() if line.startswith("not measured: ")]
    assert len(lines) == 33 and sum(line.startswith("not measured: pets: 'pets' is not in") for line in lines) == 1
    assert "48.4" in shown.out and "open_clip: open_clip, zero-shot on" in shown.out and "report: " in shown.out
    assert (tmp_path / "evaluation/vtab_plus/report.html").is_file()
    assert main([*command[:4], "nothing", *command[5:]]) == 2
    assert "neither a file nor a suite by name" in capsys.readouterr().err


class TestPage:
    def test_tables_are_the_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        page = (Path(__file__).resolve().parents[2] / "docs/concepts/suites.md").read_text()
        assert main(["suites", "--markdown"]) == 0
        (tables,) = re.findall(r"<!-- sets -->\n(.*?)\n<!-- end of sets -->", page, re.S)
        assert tables == capsys.readouterr().out.strip()
        for name in SUITES:
            assert f"- **{name}**" in page

    def test_what_is_there(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        LAYOUTS["winoground"](root)
        shards(root / "wds_mnist", ["0", "1"])
        assert main(["suites", "--data", str(root)]) == 0
        shown = {
            line.split("│")[1].strip(): line.split("│")[2:4] for line in capsys.readouterr().out.splitlines() if "│" in line
        }
        assert [cell.strip() for cell in shown["compositional"]] == ["4", "1"]
        assert [cell.strip() for cell in shown["vtab+"]] == ["35", "1"]
        assert main(["suites", "compositional", "--data", str(root)]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "winoground" in line]
        assert "yes" in rows[0] and "pairs" in rows[0]
