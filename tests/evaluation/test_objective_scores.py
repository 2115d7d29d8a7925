"""What a model's objective scores by is what the protocols measure: the figures of callback, predictor and suite agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from PIL import Image
from small import IMAGE, TEXT, save_checkpoint, small_module
from torch import Tensor

from lightning_clip import ClipDataModule, InputError, Retrieval, ZeroShotClassification
from lightning_clip.callbacks import EvaluationSuite
from lightning_clip.callbacks.pair_scores import PairScores
from lightning_clip.cli import main
from lightning_clip.evaluation.extraction import local_features
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols import Result
from lightning_clip.evaluation.protocols.retrieval import RetrievalProtocol
from lightning_clip.evaluation.protocols.zero_shot import ZeroShot, class_average_precision
from lightning_clip.evaluation.run_suite import Outcome, run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.metrics import RetrievalRecall
from lightning_clip.model.predictor import Predictor
from lightning_clip.objectives import ContrastivePairs
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

CPU = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
SET: dict[str, Any] = {"name": "synthetic", "held_out": True, "size": 24, "image_size": 32, "templates": ["a {}", "the {}"]}
TOKENIZER = "recipes/efficiency/scenes/tokenizer.json"  # of few words: a decoder's logits are small
DECODER = {"width": 16, "layers": 1, "heads": 2}
SCENES = open_evaluation_set(SET)
WORDS = sorted({word for name in SCENES.names for word in name.split()})
OBJECTIVES: dict[str, Any] = {
    "pairs": "pairs",
    "words": {"name": "words", "vocabulary": WORDS},
    "hashtags": {"name": "hashtags", "vocabulary": SCENES.names},
    "captioning": {"name": "captioning", "decoder": DECODER},
    "masked_words": {"name": "masked_words", "decoder": DECODER},
    "flair": {"name": "flair", "heads": 2},
}


def model_of(objective: Any) -> Any:
    """A module whose weights are random, but large enough that its answers differ between images."""
    pl.seed_everything(3)
    towers = {"text_encoder": TEXT if objective in ("pairs", OBJECTIVES["flair"]) else None}
    module = small_module(image_encoder={**IMAGE, "patch_size": 8}, objective=objective, tokenizer=TOKENIZER, **towers)
    module.configure_model()
    with torch.no_grad():
        for weight in module.model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return module.eval()


def suite(folder: Path, protocols: Sequence[Any] = ("zero_shot",), trainer: Any = None, **settings: Any) -> Suite:
    sets = {"scenes": {**SET, **settings, "protocols": list(protocols)}}
    return Suite(sets, output=str(folder), batch_size=10, trainer=trainer or CPU)


def measured(outcome: Outcome, protocol: str = "zero_shot") -> Result:
    assert not outcome.failures, outcome.failures
    (found,) = outcome.results["scenes"][protocol].values()
    return found


def live(module: Any, dataset: EvaluationSet = SCENES) -> LiveSubject:
    return LiveSubject(
        PredictorModel(module.predictor), dataset, "scenes", lambda by, images, classes: local_features(by, images, 7)
    )


class Stubborn(ContrastivePairs):
    """Answers the last class, whatever the image, and never the first; of texts always the first."""

    def scorer(
        self, predictor: Predictor, class_names: Sequence[Any], templates: str | Sequence[str] = "simple"
    ) -> Callable[[Any], Tensor]:
        row = torch.zeros(len(class_names))
        row[0], row[-1] = -torch.inf, 1.0
        return lambda images: row.expand(len(images), -1)

    def text_scorer(self, predictor: Predictor, text_features: Tensor) -> Callable[[Any], Tensor]:
        row = -torch.arange(len(text_features)).float()
        return lambda images: row.expand(len(images), -1)


class TestZeroShot:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_callback_predictor_and_suite_agree(self, name: str, tmp_path: Path) -> None:
        module = model_of(OBJECTIVES[name])
        called = ZeroShotClassification({"x": SCENES}, local_batch_size=5).evaluate(module, SCENES)
        found = measured(run_suite(suite(tmp_path), [PredictorModel(module.predictor)]))
        pixels = torch.stack([SCENES.source[place].image for place in range(24)])  # type: ignore[misc]
        scores = module.predictor.scores(pixels, SCENES.class_names, list(SCENES.templates))
        label = torch.tensor([SCENES.source[place].label for place in range(24)])
        assert called.metrics == {key: found.metrics[key] for key in called.metrics}
        assert called.metrics["top1"] == float((scores.argmax(dim=1) == label).float().mean())
        assert called.confusion.tolist() == found.details["confusion"]
        assert found.per_image == (scores.argmax(dim=1) == label).float().tolist()
        assert len(set(scores.argmax(dim=1).tolist())) > 1  # or any two of them would agree
        assert bool(found.details["templates"]) == (name == "pairs")
        torch.testing.assert_close(live(module).scores().values, scores, rtol=1e-4, atol=1e-4)

    def test_while_training(self) -> None:
        callback = EvaluationSuite({"sets": {"scenes": {**SET, "protocols": ["zero_shot"]}}})
        module = model_of(OBJECTIVES["words"])
        subject = callback._subject(PredictorModel(module.predictor), SCENES, "scenes", SET)
        expected = ZeroShotClassification({"x": SCENES}).evaluate(module, SCENES).metrics
        found = ZeroShot().evaluate(subject).metrics
        assert {key: found[key] for key in expected} == expected

    def test_two_ranks_are_one_process(self, tmp_path: Path) -> None:
        model = PredictorModel(model_of(OBJECTIVES["words"]).predictor)
        ranks = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", "enable_progress_bar": False}
        one = measured(run_suite(suite(tmp_path / "one", size=23), [model]))
        two = measured(run_suite(suite(tmp_path / "two", size=23, trainer=ranks), [model]))
        assert one.per_image == two.per_image and one.metrics == pytest.approx(two.metrics, abs=1e-6)

    def test_kept_until_the_objective_scores_otherwise(self, tmp_path: Path) -> None:
        """The weights are the same, and so are their names."""

        def run(length: str) -> Outcome:
            objective = {**OBJECTIVES["captioning"], "length": length}
            return run_suite(suite(tmp_path), [PredictorModel(model_of(objective).predictor)])

        first, again, other = run("mean"), run("mean"), run("sum")
        assert len(first.extracted) == 1 and not again.extracted and len(other.extracted) == 1
        assert measured(again).details == measured(first).details != measured(other).details

    def test_a_class_that_is_never_chosen(self) -> None:
        """Its score is -inf: callback and protocol count it as wrong, and nothing fails."""
        module = model_of({"name": "words", "vocabulary": [word for word in WORDS if word != SCENES.names[2].split()[0]]})
        names = ["quagga", *SCENES.names[1:]]
        dataset = EvaluationSet(SCENES.source, names, SCENES.templates)
        found = ZeroShotClassification({"x": dataset}).evaluate(module, dataset)
        assert found.metrics["top1"] == ZeroShot().evaluate(live(module, dataset)).metrics["top1"]
        assert found.confusion[:, 0].sum() == 0 < found.confusion[0].sum()

    def test_average_precision_with_such_a_class(self) -> None:
        scores = torch.tensor([[-torch.inf, 2.0], [-torch.inf, -5.0], [-torch.inf, 1.0]])
        labels = torch.tensor([[1, 1], [0, 0], [0, 1]])
        assert class_average_precision(scores, labels) == pytest.approx((1 / 3 + 1) / 2)

    def test_scores_that_are_no_numbers(self) -> None:
        class Broken(Stubborn):
            def scorer(self, *_: Any) -> Any:
                return lambda images: torch.full((len(images), 8), torch.nan)

        with pytest.raises(InputError, match=r"features of scenes \(test\) hold NaN"):
            live(small_module(objective=Broken()).eval()).scores()


class TestOtherProtocols:
    def test_they_ask_too(self, tmp_path: Path) -> None:
        """One class in eight is the last one: the stubborn objective is right there and nowhere else."""
        module = small_module(objective=Stubborn()).eval()
        corrupted = [{"name": "robustness", "corruptions": ["jpeg"], "strengths": [3]}]
        outcome = run_suite(suite(tmp_path, ["zero_shot", *corrupted]), [PredictorModel(module.predictor)])
        assert measured(outcome).metrics["top1"] == 1 / 8
        assert measured(outcome, "robustness").metrics["clean"] == measured(outcome, "robustness").metrics["jpeg:3"] == 1 / 8

    def test_a_model_without_a_text_tower(self, tmp_path: Path) -> None:
        """Captions of the set are passed over; the probe reads features as ever, and retrieval says what it lacks."""
        model = PredictorModel(model_of(OBJECTIVES["hashtags"]).predictor)
        probe = {"name": "linear_probe", "max_iterations": 5}
        outcome = run_suite(suite(tmp_path, ["zero_shot", probe, "retrieval"], train={"size": 40, "seed": 1}), [model])
        assert set(outcome.results["scenes"]) == {"zero_shot", "linear_probe"}
        assert [failure.protocol for failure in outcome.failures] == ["retrieval"]
        assert "no captions, or the model no text tower" in outcome.failures[0].reason

    def test_retrieval_by_scores_of_pairs(self) -> None:
        """The first caption is the first for all images, and all images are alike to each caption."""
        found = RetrievalProtocol([1]).evaluate(live(small_module(objective=Stubborn()).eval())).metrics
        assert found["image_to_text/recall@1"] == pytest.approx(1 / 24) and found["text_to_image/recall@1"] == 0
        assert found["image_to_text/median_rank"] == 12.5 and found["text_to_image/median_rank"] == 24

    def test_images_that_nobody_described(self) -> None:
        images = Images(SCENES.source, model_of("pairs").predictor.transform)
        features = local_features(PredictorModel(model_of(OBJECTIVES["words"]).predictor), images, 9)
        assert len(features) == 24 and features.text_features.shape == (0, 0) and len(features.text_index) == 0


def test_flair_finds_what_each_text_sees() -> None:
    """Retrieval by the protocol ranks the very scores that its objective gives."""
    module = model_of(OBJECTIVES["flair"])
    subject = live(module)
    scores = subject.caption_scores()
    assert scores is not None and scores.values.shape == (24, 24)
    pixels = torch.stack([SCENES.source[place].image for place in range(24)])  # type: ignore[misc]
    texts = module.encode_text([SCENES.source[place].captions[0] for place in range(24)])
    torch.testing.assert_close(scores.values, module.objective.text_scorer(module.predictor, texts)(pixels))
    found = RetrievalProtocol([1, 5]).evaluate(subject).metrics
    ahead = (scores.values >= scores.values.diagonal()).sum(dim=0)
    assert found["text_to_image/recall@5"] == pytest.approx(float((ahead <= 5).float().mean()))
    assert found != RetrievalProtocol([1, 5]).evaluate(live(model_of("pairs"))).metrics


def test_commands_read_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of words alone, without a text tower, evaluated and asked for classes by the command line."""
    module = model_of(OBJECTIVES["words"])
    save_checkpoint(tmp_path / "words.ckpt", module)
    expected = ZeroShotClassification({"x": SCENES}).evaluate(module, SCENES).metrics["top1"]
    settings = {"sets": {"scenes": {**SET, "protocols": ["zero_shot"]}}, "trainer": CPU, "output": str(tmp_path / "out")}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(settings))
    checkpoint = str(tmp_path / "words.ckpt")
    assert main(["evaluate", "--checkpoint", f"w={checkpoint}", "--suite", str(tmp_path / "suite.yaml")]) == 0
    found = json.loads((tmp_path / "out/report.json").read_text())["results"]["scenes"]["zero_shot"]["w"]["metrics"]
    assert found["top1"] == expected
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    capsys.readouterr()
    assert main(["classify", str(tmp_path / "red.png"), "--labels", "red circle,pink star", "--checkpoint", checkpoint]) == 0
    assert "red circle" in capsys.readouterr().out


class TestRetrievalWhileTraining:
    def validated(self, folder: Path, objective: Any, **trainer: Any) -> tuple[dict[str, float], Retrieval]:
        module, callback = model_of(objective), Retrieval(ks=(1, 5))
        data = ClipDataModule(val={"name": "synthetic", "size": 21, "image_size": 32, "held_out": True}, local_batch_size=4)
        runner = pl.Trainer(**{**CPU, **trainer}, callbacks=[callback], logger=False, default_root_dir=folder)
        runner.validate(module, data, verbose=False)
        return {key: float(value) for key, value in runner.callback_metrics.items() if "/retrieval/" in key}, callback

    def test_the_callback_ranks_as_the_protocol(self, tmp_path: Path) -> None:
        """Figures, and the images and captions that are shown, are those of the objective's own scores."""
        found, callback = self.validated(tmp_path, OBJECTIVES["flair"])
        dataset = open_evaluation_set({**SET, "size": 21})
        subject = live(model_of(OBJECTIVES["flair"]), dataset)
        expected = RetrievalProtocol([1, 5]).evaluate(subject).metrics
        assert len(found) == 6
        for key, value in found.items():
            assert value == pytest.approx(expected[key.removeprefix("val/retrieval/")], abs=1e-6), key
        scores = subject.caption_scores()
        assert scores is not None and callback.result is not None
        rows = torch.linspace(0, 20, len(callback.result.examples)).long().tolist()
        assert [one.found for one in callback.result.examples] == [
            scores.values[:, row].topk(5).indices.tolist() for row in rows
        ]
        first = callback.result.described[0]
        captions = [dataset.source[place].captions[0] for place in scores.values[first.image].topk(3).indices.tolist()]
        assert [caption for caption, _ in first.captions] == captions

    def test_two_ranks_with_uneven_shares(self, tmp_path: Path) -> None:
        alone, _ = self.validated(tmp_path, OBJECTIVES["flair"])
        shared, _ = self.validated(tmp_path, OBJECTIVES["flair"], strategy="ddp_fork", devices=2)
        assert shared == pytest.approx(alone, abs=1e-6)

    def test_objectives_without_scores_of_texts_keep_no_picture(self) -> None:
        for name, expected in {"pairs": True, "flair": False}.items():
            assert (PairScores.asked(model_of(OBJECTIVES[name]).predictor, RetrievalRecall()) is None) == expected
