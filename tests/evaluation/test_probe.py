"""Probes against scikit-learn, the search against trying all, Tip-Adapter against plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from subjects import BySimilarity

from lightning_clip import InputError
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.probe import Probe, fit_probe, search_strength, stratified_split
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.evaluation.protocols.few_shot import FewShot, draw_shots, equivalent_shots
from lightning_clip.evaluation.protocols.linear_probe import LinearProbe
from lightning_clip.evaluation.tip_adapter import TipAdapter, tip_logits, tune_keys
from lightning_clip.prompts.evaluation_sets import EvaluationSet


def blobs(count: int, classes: int = 4, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[label] + 1.5 * torch.randn(count, width, generator=generator), label


class Labelled(BySimilarity):
    """A subject whose backbone features tell the classes and whose unit features need not.

    Args:
        noise: of the backbone features around their class.
        words: of the unit features around their class.
    """

    scale, device = 10.0, torch.device("cpu")

    def __init__(self, noise: float, words: float = 0.35) -> None:
        self.noise, self.words = noise, words
        self.dataset = EvaluationSet(None, ["a", "b", "c", "d"], ["{}"])  # type: ignore[arg-type]

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        generator = torch.Generator().manual_seed(len(split))
        label = torch.arange(200) % 4
        centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(99))
        backbone = centres[label] + self.noise / 2 * torch.randn(200, 12, generator=generator)
        unit = torch.nn.functional.normalize(torch.eye(4)[label] + self.words * torch.randn(200, 4, generator=generator), dim=1)
        return Features(unit, backbone, label, torch.arange(200))

    def classifier(self, class_names: Any = None, templates: Any = None) -> torch.Tensor:
        return torch.eye(4)


class TestProtocol:
    def test_reads_features_before_the_projection(self) -> None:
        """A.3: unit features of noise, backbone features that tell all: only who reads the latter is right."""
        subject = Labelled(noise=0.1, words=1e3)
        assert LinearProbe().evaluate(subject).metrics["top1"] == 1.0  # type: ignore[arg-type]
        few = FewShot(shots=[4], seeds=1, methods=["probe", "zero_shot_probe"]).evaluate(subject).metrics  # type: ignore[arg-type]
        assert few["probe/4"] == 1.0 and few["zero_shot_probe/4"] < 0.5


class TestProbe:
    @pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
    def test_is_scikit_learns(self, strength: float) -> None:
        features, label = blobs(200)
        found = fit_probe(features, label, 4, strength)
        reference = LogisticRegression(C=1 / strength, max_iter=5000, tol=1e-10).fit(features.double().numpy(), label.numpy())
        shift = found.weight.mean(dim=1, keepdim=True)  # softmax does not feel a common shift; the penalty makes it zero
        assert shift.abs().max() < 1e-4
        np.testing.assert_allclose(found.weight.T.numpy(), reference.coef_, atol=2e-3)
        others, _ = blobs(500, seed=1)
        theirs = torch.softmax(torch.from_numpy(reference.decision_function(others.double().numpy())), dim=1)
        assert (torch.softmax(found.logits(others), dim=1) - theirs).abs().max() < 1e-3

    def test_digits_within_a_tenth_of_a_point(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        features, label = torch.tensor(digits.data / 16), torch.tensor(digits.target)
        probe = fit_probe(features[:1000], label[:1000], 10, 1.0)
        reference = LogisticRegression(C=1.0, max_iter=5000).fit(features[:1000].numpy(), label[:1000].numpy())
        ours = float((probe.predict(features[1000:]) == label[1000:]).double().mean())
        assert abs(ours - reference.score(features[1000:].numpy(), label[1000:].numpy())) <= 0.001 + 1e-9

    def test_strong_penalty_ends_where_it_is_drawn_to(self) -> None:
        features, label = blobs(40)
        anchor = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
        probe = fit_probe(features, label, 4, 1e6, towards=anchor)
        assert (probe.weight - anchor).abs().max() < 1e-3
        with pytest.raises(InputError, match="strength 0 of a probe must be above 0"):
            fit_probe(features, label, 4, 0)

    @pytest.mark.parametrize("peak", [0.3, 5.6e-5, 7e5, 1e-6])
    def test_search_finds_what_trying_all_finds(self, peak: float) -> None:
        """On a curve with one peak; 7 + 2 a round of 4 rounds are fitted instead of 97."""
        fits = []

        def fit(strength: float, start: Probe | None) -> Probe:
            fits.append(strength)
            return Probe(torch.tensor([[strength]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))

        found = search_strength(fit, lambda probe: -abs(math.log(float(probe.weight)) - math.log(peak)))
        grid = [10 ** (-6 + place / 8) for place in range(97)]
        assert found.strength == pytest.approx(min(grid, key=lambda value: abs(math.log(value / peak)))) and len(fits) <= 15
        assert list(found.tried) == sorted(found.tried)

    def test_split_has_each_class(self) -> None:
        label = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])
        train, held = stratified_split(label, 0.2)
        assert torch.bincount(label[held], minlength=4).tolist() == [2, 1, 1, 0]
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(18))
        with pytest.raises(InputError, match="validation_share 1 must be in"):
            stratified_split(label, 1)


class TestFewShot:
    def test_shots(self) -> None:
        label = torch.arange(60) % 3
        few, held = draw_shots(label, 4, 3, seed=1)
        more, _ = draw_shots(label, 8, 3, seed=1)
        assert torch.bincount(label[few]).tolist() == [4, 4, 4] and torch.bincount(label[held]).tolist() == [4, 4, 4]
        assert set(few.tolist()) <= set(more.tolist()) and not set(few.tolist()) & set(held.tolist())
        with pytest.raises(InputError, match="class 0 has 20 training images, fewer than 21 shots"):
            draw_shots(label, 21, 3, seed=0)

    def test_equivalent_shots(self) -> None:
        assert equivalent_shots([1, 2, 4], [0.5, 0.6, 0.7], 0.4) == 0.0
        assert equivalent_shots([1, 2, 4], [0.1, 0.2, 0.3], 0.4) is None
        assert equivalent_shots([1, 4], [0.2, 0.4], 0.3) == pytest.approx(2.0)

    def test_equivalent_shots_go_on_to_the_supervised_probe(self) -> None:
        """Figure 7: between the most shots and all labelled images, on a log scale; features before the projection."""
        subject = Labelled(noise=3.0)
        details = FewShot(shots=[1, 2], seeds=2, methods=["probe"]).evaluate(subject).details  # type: ignore[arg-type]
        curve = [sum(draws) / len(draws) for draws in details["curves"]["probe"]]
        many, reached = details["supervised"]
        probe = LinearProbe().evaluate(subject).metrics["top1"]  # type: ignore[arg-type]
        assert many == 200 / 4 and reached == pytest.approx(probe) and curve[-1] < details["zero_shot"] < reached
        expected = np.exp(np.interp(details["zero_shot"], [curve[-1], reached], np.log([2, 50])))
        assert details["equivalent_shots"] == pytest.approx(expected) and 2 < expected < 50
        (section,) = FewShot(shots=[1, 2], methods=["probe"]).sections({"m": Result({}, details=details)}, subject.dataset)
        assert f"matches zero-shot with about {expected:.1f} labelled images" in section.text
        perfect = Labelled(noise=3.0, words=0.0)
        details = FewShot(shots=[1], seeds=1, methods=["probe"]).evaluate(perfect).details  # type: ignore[arg-type]
        assert details["equivalent_shots"] is None and details["zero_shot"] == 1.0
        (section,) = FewShot(shots=[1], methods=["probe"]).sections({"m": Result({}, details=details)}, subject.dataset)
        assert "all labelled images (50.0 a class) reaches" in section.text and "does not match zero-shot" in section.text

    def test_several_classes_an_image(self) -> None:
        subject = Labelled(noise=1.0)
        rows = Features(torch.eye(4), torch.eye(4), torch.eye(4, dtype=torch.int64), torch.arange(4))
        subject.features = lambda split="test", corruption=None: rows  # type: ignore[method-assign]
        with pytest.raises(InputError, match="few_shot is for one class an image"):
            FewShot().evaluate(subject)  # type: ignore[arg-type]
        found = LinearProbe(max_iterations=20, validation_share=0.5).evaluate(subject)  # type: ignore[arg-type]
        assert set(found.metrics) == {"mean_average_precision", "eleven_point_map"}

    def test_tip_adapter_like_a_loop(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features, keys, classifier = (
            torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (5, 7, 3)
        )
        values = torch.nn.functional.one_hot(torch.arange(7) % 3, 3).float()
        found = tip_logits(features, classifier.T, keys, values, scale=20.0, alpha=1.5, beta=4.0)
        for row in range(5):
            for number in range(3):
                expected = 20 * sum(float(features[row, d]) * float(classifier[number, d]) for d in range(6))
                for key in range(7):
                    cosine = sum(float(features[row, d]) * float(keys[key, d]) for d in range(6))
                    expected += 1.5 * math.exp(-4 * (1 - cosine)) * float(values[key, number])
                assert float(found[row, number]) == pytest.approx(expected, abs=1e-4)

    def test_adapters_learn_what_words_do_not_know(self) -> None:
        """With a useless classifier alpha > 0 is found, and tuned keys fit their own images."""
        features, label = blobs(160, seed=4)
        unit = torch.nn.functional.normalize(features, dim=1)
        classifier = torch.nn.functional.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(5)), dim=0)
        values = torch.nn.functional.one_hot(label[:80], 4).float()
        adapter = TipAdapter.searched(unit[:80], values, unit[80:], label[80:], classifier, 10.0)
        plain = float(((unit[80:] @ classifier).argmax(dim=1) == label[80:]).float().mean())
        found = float((adapter.predict(unit[80:], classifier, 10.0) == label[80:]).float().mean())
        assert adapter.alpha > 0 and found > plain + 0.2
        keys = tune_keys(unit[:80], label[:80], classifier, 10.0)
        fitted = [tip_logits(unit[:80], classifier, k, values, scale=10.0, alpha=1.0, beta=5.5) for k in (unit[:80], keys)]
        losses = [float(torch.nn.functional.cross_entropy(logits, label[:80])) for logits in fitted]
        assert losses[1] < losses[0] and torch.allclose(keys.norm(dim=1), torch.ones(80))

    def test_wrong_settings(self) -> None:
        with pytest.raises(InputError, match="few_shot needs methods of probe, .* from 1"):
            FewShot(methods=["tip"])
