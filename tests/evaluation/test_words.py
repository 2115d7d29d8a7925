"""Protocols `typography`, `reading` and `choices` against plain loops, what they refuse, and the suite "limits"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_module
from torch import Tensor

from lightning_clip.applications.typography import Attack
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data import PairSource, ScenePuzzles, SyntheticSigns
from lightning_clip.data.lettering import Lettering
from lightning_clip.data.sources import RenderedText
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.limits import WORDS, limits_suite
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.choices import Choices
from lightning_clip.evaluation.protocols.reading import Reading, chosen_candidates, closest_words, picked
from lightning_clip.evaluation.protocols.typography import Typography, attack_figures
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

TEMPLATES = ["a {}", "a picture of a {}"]


@pytest.fixture(scope="module")
def model() -> PredictorModel:
    torch.manual_seed(0)
    vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    return PredictorModel(small_module(image_encoder=vit).eval().predictor, "small")


def encoded(model: EvaluatedModel, images: Images, classes: int | None) -> Features:
    """Features picture by picture."""
    found = [images.source[place] for place in range(len(images))]
    rows = [model.encode_image(images.transform(pair.image)[None]) for pair in found]
    return Features(
        torch.cat([features for features, _ in rows]),
        torch.cat([backbone for _, backbone in rows]),
        torch.tensor([-1 if pair.label is None else pair.label for pair in found]),
        torch.arange(len(found)),
        [pair.key for pair in found],
    )


def subject(model: EvaluatedModel, source: PairSource, templates: list[str] = TEMPLATES) -> LiveSubject:
    return LiveSubject(model, EvaluationSet(source, source.class_names, templates), "set", encoded)


def cosines(model: PredictorModel, picture: Tensor, texts: list[str]) -> list[float]:
    """Of a picture with texts, one number after the other."""
    image = model.encode_image(model.transform()(picture)[None])[0][0]
    return [math.fsum(float(a) * float(b) for a, b in zip(image, text, strict=True)) for text in model.encode_text(texts)]


def probabilities(model: PredictorModel, picture: Tensor, names: list[str]) -> list[float]:
    """Softmax over classes, their prompts averaged in embedding space."""
    image = model.encode_image(model.transform()(picture)[None])[0][0].double()
    scores = []
    for name in names:
        own = model.encode_text([template.replace("{}", name) for template in TEMPLATES]).double().sum(dim=0)
        scores.append(model.scale * float(image @ (own / own.norm())))
    exponents = [math.exp(score - max(scores)) for score in scores]
    return [exponent / sum(exponents) for exponent in exponents]


class TestTypography:
    @pytest.mark.parametrize("target", [None, "star"])
    def test_equals_loops(self, model: PredictorModel, target: str | None) -> None:
        scenes = SyntheticSigns("test", 24, show="object", image_size=40)
        options: dict[str, Any] = {"place": "random", "share": 0.3, "colour": "navy", "board": "lightgrey", "seed": 5}
        found = Typography(target, **options).evaluate(subject(model, scenes))
        names = scenes.class_names
        attack = Attack(names, target, Lettering("random", 0.3, "navy", "lightgrey"), 5)
        rows = []
        for place in range(24):
            pair = scenes[place]
            assert pair.label is not None
            if target is not None and names[pair.label] == target:
                continue
            word = attack.target_of(place, pair.label)
            before, after, covered = (
                probabilities(model, picture, list(names))
                for picture in (
                    pair.image,
                    attack(pair.image, place, pair.label)[0],  # type: ignore[arg-type]
                    attack.empty(pair.image, place),  # type: ignore[arg-type]
                )
            )
            answers = [max(range(len(names)), key=scores.__getitem__) for scores in (before, after, covered)]
            rows.append((pair.label, word, *answers, after[word] - before[word], before[pair.label] - after[pair.label]))
        count = len(rows)
        right = [row for row in rows if row[2] == row[0]]
        wanted = {
            "clean": len(right) / count,
            "attacked": sum(row[3] == row[0] for row in rows) / count,
            "covered": sum(row[4] == row[0] for row in rows) / count,
            "success": sum(row[3] == row[1] for row in right) / max(1, len(right)),
            "shift": sum(row[5] for row in rows) / count,
            "loss": sum(row[6] for row in rows) / count,
        }
        assert found.metrics.keys() == wanted.keys()
        assert all(abs(found.metrics[key] - value) < 1e-6 for key, value in wanted.items())
        assert found.per_image == [float(row[3] == row[0]) for row in rows] and count == (24 if target is None else 21)

    def test_a_word_that_decides(self) -> None:
        """Two classes, answers turned round by the word in three of four pictures."""
        before = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
        after = torch.tensor([[0.0, 2.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        true, target = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
        found = attack_figures(before, after, true, target)
        moved = 1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(2))
        assert found.clean == 0.75 and found.attacked == 0.5 and found.success == pytest.approx(2 / 3)
        assert found.shift == pytest.approx(moved / 4) and found.loss == pytest.approx(moved / 4)

    def test_true_class_and_target_equal(self, model: PredictorModel) -> None:
        with pytest.raises(InputError, match="picture 1 has class 2 and is attacked with that class: write another word"):
            attack_figures(torch.eye(3), torch.eye(3), torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0]))

        class Stars(SyntheticSigns):
            def label(self, index: int) -> int | None:
                return self.class_names.index("star")

        with pytest.raises(
            InputError, match="all pictures show 'star', which is the target of the attack: take another target"
        ):
            Typography("star").evaluate(subject(model, Stars("test", 3, show="object", image_size=32)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"place": "botom"}, "lettering's place 'botom' is unknown"),
            ({"font": "no.ttf"}, r"font 'no\.ttf'"),
            ({"limit": 0}, "typography's limit 0"),
        ],
    )
    def test_settings_that_are_wrong(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Typography(**options)

    def test_sets_that_are_wrong(self, model: PredictorModel) -> None:
        scenes = SyntheticSigns("test", 3, show="mixed", image_size=32)
        with pytest.raises(InputError, match="has label None, and there are 8 class names"):
            Typography().evaluate(subject(model, scenes))
        one = EvaluationSet(scenes, ["circle"], TEMPLATES)
        with pytest.raises(InputError, match=r"a typographic attack has words \['circle'\]: give at least two classes"):
            Typography().evaluate(LiveSubject(model, one, "set", encoded))
        with pytest.raises(InputError, match="target 'sta' is the word of no class: did you mean 'star'"):
            Typography("sta").evaluate(subject(model, SyntheticSigns("test", 3, show="object", image_size=32)))
        words = [*"abcdefg", "incomprehensibilities"]
        long = EvaluationSet(SyntheticSigns("test", 2, show="object", image_size=32), words, TEMPLATES)
        with pytest.raises(InputError, match="word 'incomprehensibilities' is longer than a picture of 32 pixels"):
            Typography(words[-1]).evaluate(LiveSubject(model, long, "set", encoded))


class TestReading:
    def test_equals_loops(self, model: PredictorModel) -> None:
        words = ["house", "mouse", "tree", "hippopotamus", "go"]
        pages = RenderedText(words, size=20, image_size=64)
        templates = ["a sign that says {}"]
        found = Reading(candidates=3, seed=2).evaluate(subject(model, pages, templates))
        close = {0: 1, 1: 0}
        among, everything, lookalike, by_length = [], [], [], {}
        for place in range(20):
            pair = pages[place]
            assert pair.label is not None
            scores = cosines(model, pair.image, [f"a sign that says {word}" for word in words])  # type: ignore[arg-type]
            own = chosen_candidates(pair.label, 5, 3, f"2 {place}").tolist()
            assert own[0] == pair.label and len(set(own)) == 3
            among.append(all(scores[pair.label] > scores[other] for other in own[1:]))
            everything.append(all(scores[pair.label] > score for number, score in enumerate(scores) if number != pair.label))
            nearest = close.get(pair.label, int(closest_words(words)[pair.label]))
            lookalike.append(scores[pair.label] > scores[nearest])
            by_length.setdefault(
                "1-4" if len(words[pair.label]) < 5 else "5-8" if len(words[pair.label]) < 9 else "9-99", []
            ).append(among[-1])
        wanted = {"accuracy": among, "among_all": everything, "lookalike": lookalike}
        wanted |= {f"letters/{key}": value for key, value in by_length.items()}
        assert found.metrics.keys() == wanted.keys()
        assert all(abs(found.metrics[key] - sum(value) / len(value)) < 1e-6 for key, value in wanted.items())
        assert found.chance["accuracy"] == pytest.approx(1 / 3) and found.chance["among_all"] == 0.2

    def test_equal_scores_are_never_right(self) -> None:
        scores, candidates = torch.zeros(2, 4), torch.tensor([[1, 0, 3], [2, 3, 0]])
        assert (picked(scores, candidates) != candidates[:, 0]).all()
        scores[0, 1] = 1.0
        assert picked(scores, candidates)[0] == 1

    def test_words_spelt_alike(self) -> None:
        assert closest_words(["house", "mouse", "tree", "tee"]).tolist() == [1, 0, 3, 2]

    def test_one_word_only(self, model: PredictorModel) -> None:
        with pytest.raises(InputError, match="reading has candidates 1: give at least two words to choose among"):
            Reading(candidates=1)
        with pytest.raises(InputError, match=r"reading has one candidate word only \('go'\): give at least two words"):
            Reading().evaluate(subject(model, RenderedText(["go"], image_size=32)))


class TestChoices:
    @pytest.mark.parametrize("kind", ["counting", "relations"])
    def test_equals_loops(self, model: PredictorModel, kind: str) -> None:
        scenes = ScenePuzzles(kind, "test", 18, image_size=32)
        found = Choices().evaluate(subject(model, scenes))
        right = []
        for place in range(18):
            pair = scenes[place]
            scores = cosines(model, pair.image, pair.metadata["choices"])  # type: ignore[arg-type]
            right.append(max(range(len(scores)), key=scores.__getitem__) == pair.metadata["answer"])
        assert found.per_image == [float(value) for value in right]
        assert abs(found.metrics["accuracy"] - sum(right) / 18) < 1e-6
        for number, name in enumerate(scenes.class_names):
            own = right[number :: len(scenes.class_names)]
            assert abs(found.metrics[f"class/{name}"] - sum(own) / len(own)) < 1e-6
        assert found.chance["accuracy"] == pytest.approx(1 / len(scenes.class_names))

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({}, "has no captions to choose from: take the set 'puzzles'"),
            ({"choices": ["a dog"], "answer": 0}, r"has one candidate caption only \('a dog'\)"),
            ({"choices": ["a dog", "a cat"], "answer": 2}, "has answer 2 of 2 choices: count them from 0"),
        ],
    )
    def test_sets_that_are_wrong(self, model: PredictorModel, metadata: Mapping[str, Any], message: str) -> None:
        class Grey(PairSource):
            class_names = ("grey", "green")

            def __len__(self) -> int:
                return 2

            def __getitem__(self, index: int) -> Pair:
                return Pair(torch.full((3, 32, 32), 99, dtype=torch.uint8), (), str(index), 0, metadata)

        with pytest.raises(InputError, match=message):
            Choices().evaluate(subject(model, Grey()))

    def test_equal_scores_are_never_right(self) -> None:
        class Blind(EvaluatedModel):
            scale = 1.0

            def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
                return torch.ones(len(image), 1), torch.ones(len(image), 1)

            def encode_text(self, texts: Any, batch_size: int = 256) -> Tensor:
                return torch.ones(len(texts), 1)

        blind = Blind("blind", 32)
        assert Choices().evaluate(subject(blind, ScenePuzzles("twins", "test", 8, image_size=32))).metrics["accuracy"] == 0
        signs = SyntheticSigns("test", 8, show="sign", image_size=32)
        assert Reading(candidates=4).evaluate(subject(blind, signs)).metrics["accuracy"] == 0


class TestLimits:
    def test_needs_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("LIGHTNING_CLIP_DATASETS", str(tmp_path / "sets"))
        suite = Suite.read("limits")
        assert list(suite.sets) == ["digits", "counting", "relations", "twins", "reading", "signs", "objects"]
        assert suite.output == "limits" and Suite.read("limits", output="other").output == "other"
        (tmp_path / "sets/MNIST/raw").mkdir(parents=True)
        assert list(limits_suite()["sets"])[:2] == ["digits", "mnist"]
        (tmp_path / "limits").write_text("sets: {a: {name: digits, protocols: [zero_shot]}}")
        assert list(Suite.read("limits").sets) == ["a"]  # a file of that name is the user's

    def test_words_are_different_and_some_alike(self) -> None:
        assert len(set(WORDS)) == len(WORDS) >= 40
        pairs = {(WORDS[place], WORDS[other]) for place, other in enumerate(closest_words(WORDS).tolist())}
        assert {("house", "mouse"), ("pocket", "rocket"), ("kitchen", "chicken"), ("letter", "lettuce")} & pairs

    def test_digits(self) -> None:
        found = open_evaluation_set("digits")
        assert found.train is not None and len(found.source) + len(found.train) == 1797
        pair = found.source[3]
        assert pair.image.shape == (3, 8, 8) and int(pair.image.max()) == 255 and pair.label in range(10)  # type: ignore[union-attr]
        own = {found.source[place].image.numpy().tobytes() for place in range(len(found.source))}  # type: ignore[union-attr]
        others = {found.train[place].image.numpy().tobytes() for place in range(len(found.train))}  # type: ignore[union-attr]
        assert len(own & others) < 5 and found.templates == ['a photo of the number: "{}".']

    @pytest.mark.slow
    def test_runs_on_any_model(self, model: PredictorModel, tmp_path: Path) -> None:
        given = limits_suite()
        for spec in given["sets"].values():
            spec |= {"size": 8, "image_size": 64} if spec["name"] != "digits" else {}
        given["sets"]["reading"] |= {"texts": WORDS[:5]}
        given |= {"output": str(tmp_path), "trainer": {"accelerator": "cpu", "devices": 1}}
        outcome = run_suite(Suite.parse(given), [model])
        assert not outcome.failures
        names = {(name, protocol) for name, found in outcome.results.items() for protocol in found}
        assert {("twins", "choices"), ("reading", "reading"), ("objects", "typography"), ("digits", "zero_shot")} <= names
        for name, found in outcome.results.items():
            for label, results in found.items():
                assert outcome.protocols[name][label].sections(results, outcome.datasets[name])
