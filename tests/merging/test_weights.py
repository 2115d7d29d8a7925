"""Weights between two models and averages of several: exact ends, exact means, choices by validation, and the commands."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import IMAGE, TEXT, save_checkpoint, small_data, small_module, small_trainer
from tasks.labelled import NAMES, fit, module_of

from lightning_clip import ClipModule, InputError
from lightning_clip.cli import main
from lightning_clip.core.types import Pair
from lightning_clip.data import SyntheticScenes
from lightning_clip.data.sources import PairSource
from lightning_clip.export.export import export
from lightning_clip.merging import merged
from lightning_clip.merging.interpolation import Curve, curve_figure, sweep
from lightning_clip.merging.mixing import average, interpolate, write_checkpoint
from lightning_clip.merging.model_score import accuracy, batch_norms, mean_recall, measure, recalibrate, score
from lightning_clip.merging.soups import greedy_soup, uniform_soup
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set
from lightning_clip.tasks import ClassifierModule, DistillationModule

SET = {"name": "synthetic", "held_out": True, "size": 24, "image_size": 32}


def other(module: ClipModule, seed: int) -> ClipModule:
    """The same architecture with other weights."""
    found = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return found


def assert_same_texts(first: ClipModule, second: ClipModule) -> None:
    torch.testing.assert_close(first.encode_text(NAMES), second.encode_text(NAMES))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> list[ClipModule]:
    """Two modules with adapters on one base."""
    folder = tmp_path_factory.mktemp("tuned")
    base, found = save_checkpoint(folder / "base.ckpt"), []
    adapt = {"image": {"lora": {"rank": 4}}, "text": {"lora": {"rank": 4}}}
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(ClipModule(pretrained=str(base), training={"optimizer": {"lr": 1e-2, "warmup_steps": 0}, "adapt": adapt}))
        small_trainer(folder).fit(found[-1], small_data())
    return found


@pytest.fixture(scope="module")
def pair() -> tuple[ClipModule, ClipModule]:
    first = module_of(ClipModule).eval()
    return first, other(first, 1)


class TestInterpolate:
    def test_ends_are_exact_and_the_middle_is_the_mean(self, pair: tuple[ClipModule, ClipModule]) -> None:
        first, second = (module.model.state_dict() for module in pair)
        for name, value in interpolate(first, second, 0.0).items():
            assert torch.equal(value, first[name])
        for name, value in interpolate(first, second, 1).items():
            assert torch.equal(value, second[name])
        for name, value in interpolate(first, second, 0.5).items():
            assert torch.equal(value, (first[name] + second[name]) / 2)

    def test_whole_numbers_are_those_of_the_nearer_end(self) -> None:
        first, second = {"n": torch.tensor(3)}, {"n": torch.tensor(8)}
        assert [int(interpolate(first, second, alpha)["n"]) for alpha in (0.2, 0.8)] == [3, 8]

    def test_other_architectures(self) -> None:
        with pytest.raises(InputError, match=r"the second has weights 'b', which the first model lacks: only models of one"):
            interpolate({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}, 0.5)
        with pytest.raises(InputError, match=r"weights 'a' are \(1,\) in the first model and \(2,\) in the second"):
            interpolate({"a": torch.ones(1)}, {"a": torch.ones(2)}, 0.5)

    def test_alpha_outside(self) -> None:
        with pytest.raises(InputError, match=r"alpha 1.5 must be in \[0, 1\]"):
            interpolate({}, {}, 1.5)


class TestSweep:
    def test_chooses_by_one_set(self, pair: tuple[ClipModule, ClipModule]) -> None:
        dataset = open_evaluation_set(SET)
        accuracies = iter([0.1, 0.2, 0.3, 0.9, 0.2, 0.1])
        curve, mixed = sweep(
            *pair, {"chosen": dataset, "other": dataset}, "chosen", (0.0, 0.25, 1.0), score=lambda *_: next(accuracies)
        )
        assert curve.scores == {"chosen": [0.1, 0.3, 0.2], "other": [0.2, 0.9, 0.1]} and curve.best == 1
        expected = interpolate(pair[0].model.state_dict(), pair[1].model.state_dict(), 0.25)
        for name, value in mixed.model.state_dict().items():
            assert torch.equal(value, expected[name])

    def test_ends_score_as_the_models_do(self, pair: tuple[ClipModule, ClipModule]) -> None:
        dataset = open_evaluation_set(SET)
        curve, _ = sweep(*pair, {"held_out": dataset}, "held_out", (0, 1))
        assert curve.scores["held_out"] == [accuracy(pair[0], dataset), accuracy(pair[1], dataset)]

    def test_a_head_begins_as_the_zero_shot_classifier_of_the_first(self, tmp_path: Path) -> None:
        first = module_of(ClipModule).eval()
        second = module_of(ClassifierModule, first)
        fit(second, tmp_path, limit_val_batches=0)
        curve, _ = sweep(first, second.eval(), {"held_out": open_evaluation_set(SET)}, "held_out", (0, 0.5, 1))
        assert curve.scores["held_out"][0] == accuracy(first, open_evaluation_set(SET))
        assert curve.scores["held_out"][2] == accuracy(second, open_evaluation_set(SET))

    def test_what_bridged_widths_in_distillation_is_no_hindrance(self, pair: tuple[ClipModule, ClipModule]) -> None:
        teacher = module_of(ClipModule, embed_dim=24)
        student = module_of(DistillationModule, pair[1], teachers=teacher, features=1.0).eval()
        expected = interpolate(pair[0].model.state_dict(), pair[1].model.state_dict(), 0.5)
        for ends in ((pair[0], student), (student, pair[0])):
            _, mixed = sweep(*ends, {"held_out": open_evaluation_set(SET)}, "held_out", (0.5,), score=lambda *_: 0.0)
            found = mixed.model.state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        soup = uniform_soup([student, pair[0]]).module.model.state_dict()
        for name, value in expected.items():
            torch.testing.assert_close(soup[name], value)

    def test_other_tokenizers(self, pair: tuple[ClipModule, ClipModule]) -> None:
        longer = module_of(ClipModule, tokenizer={"name": "clip", "context_length": 32})
        with pytest.raises(InputError, match="read text with different tokenizers"):
            sweep(pair[0], longer, {}, "", (0, 1))

    @pytest.mark.parametrize(
        ("tower", "arguments"),
        [
            ("image", {"image_encoder": {**IMAGE, "act_layer": "quick_gelu"}}),
            ("text", {"text_encoder": {**TEXT, "heads": 4}}),
        ],
    )
    def test_other_features_of_weights_of_the_same_shapes(
        self, pair: tuple[ClipModule, ClipModule], tower: str, arguments: dict[str, Any]
    ) -> None:
        second = small_module(**arguments)
        second.configure_model()
        with pytest.raises(InputError, match=f"make other {tower} features of the same weights"):
            sweep(pair[0], second, {}, "", (0, 1))
        with pytest.raises(InputError, match=f"model 1 and model 2 make other {tower} features"):
            uniform_soup([pair[0], second])

    def test_classes_in_another_order(self) -> None:
        first = module_of(ClassifierModule, class_names=NAMES)
        second = module_of(ClassifierModule, class_names=NAMES[::-1])
        with pytest.raises(InputError, match="learned other classes, or these in another order"):
            sweep(first, second, {}, "", (0, 1))

    def test_between_a_base_and_its_adapters(self, tuned: list[ClipModule], tmp_path: Path) -> None:
        base, after = ClipModule.from_pretrained(tuned[0].adaptation.base_arguments["pretrained"]), merged(tuned[0])
        _, mixed = sweep(base, tuned[0], {"": None}, "", (0.25,), score=lambda *_: 0.0)  # type: ignore[dict-item]
        for name, value in mixed.model.state_dict().items():
            torch.testing.assert_close(value, 0.75 * base.model.state_dict()[name] + 0.25 * after.model.state_dict()[name])
        write_checkpoint(mixed, tmp_path / "mixed.ckpt")
        assert_same_texts(ClipModule.load_from_checkpoint(tmp_path / "mixed.ckpt"), mixed)

    def test_of_checkpoints_that_hold_what_was_trained(self, tmp_path: Path) -> None:
        """What rests is rounded when it is mixed with itself, and is written with the rest."""
        base = save_checkpoint(tmp_path / "base.ckpt")
        after = ClipModule(pretrained=str(base), training={"adapt": {"image": {"lock": True}, "store": "trained"}})
        small_trainer(tmp_path).fit(after, small_data())
        _, mixed = sweep(ClipModule.from_pretrained(str(base)), after, {"": None}, "", (0.3,), score=lambda *_: 0.0)  # type: ignore[dict-item]
        write_checkpoint(mixed, tmp_path / "mixed.ckpt")
        assert_same_texts(ClipModule.load_from_checkpoint(tmp_path / "mixed.ckpt"), mixed)

    def test_of_equal_ones_the_middle(self) -> None:
        curve = Curve([0.0, 0.4, 1.0], {"a": [0.5, 0.5, 0.5], "b": [1, 1, 1], "c": [0, 0, 0]}, "a")
        assert curve.best == 1 and len(curve_figure(curve).axes) == 2


class TestSoup:
    def test_of_one_is_itself(self, pair: tuple[ClipModule, ClipModule]) -> None:
        for name, value in uniform_soup([pair[0]]).module.model.state_dict().items():
            assert torch.equal(value, pair[0].model.state_dict()[name])

    def test_uniform_is_the_mean_whatever_the_order(self, pair: tuple[ClipModule, ClipModule]) -> None:
        states = [module.model.state_dict() for module in (*pair, other(pair[0], 2))]
        forward, backward = average(states), average(states[::-1])
        for name, value in forward.items():
            torch.testing.assert_close(value, torch.stack([state[name] for state in states]).mean(dim=0))
            assert torch.equal(value, backward[name])

    @pytest.mark.parametrize("seed", range(4))
    def test_greedy_is_never_worse_than_the_best(self, pair: tuple[ClipModule, ClipModule], seed: int) -> None:
        """With a score as rugged as can be."""
        modules = [other(pair[0], number) for number in range(4)]

        def score(module: ClipModule) -> float:
            return float((module.model.logit_scale.detach() * 1e4 + seed).sin())

        soup = greedy_soup(modules, score)
        assert soup.score is not None and soup.score >= max(soup.scores) and soup.score == score(soup.module)
        assert soup.used[0] == soup.scores.index(max(soup.scores))

    def test_greedy_takes_what_does_not_harm(self, pair: tuple[ClipModule, ClipModule]) -> None:
        modules = [other(pair[0], number) for number in range(3)]
        assert sorted(greedy_soup(modules, lambda module: 0.5).used) == [0, 1, 2]

    def test_adapters_are_averaged_as_weights(self, tuned: list[ClipModule]) -> None:
        """The mean of two products B A, not the product of the means."""
        found, states = uniform_soup(tuned).module.model.state_dict(), [merged(module).model.state_dict() for module in tuned]
        for name, value in average(states).items():
            torch.testing.assert_close(found[name], value)

    def test_nothing_and_other_architectures(self, pair: tuple[ClipModule, ClipModule]) -> None:
        with pytest.raises(InputError, match="a soup needs at least one model"):
            uniform_soup([])
        wider = module_of(ClipModule, embed_dim=8)
        with pytest.raises(InputError, match=r"weights 'image_projection.weight' are \(16, 32\) in model 1 and \(8, 32\)"):
            uniform_soup([pair[0], wider])


def test_statistics_of_batches_are_measured_anew() -> None:
    """They are the means over the images given, as the plain mean over batches has them."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"embed_dim": 16, "tokenizer": {"name": "clip", "context_length": 24}}
    module = ClipModule(
        {"name": "resnet10t", "image_size": 32}, TEXT, towers={"image": {"transform": {"crop_scale": [1, 1]}}}, **settings
    ).eval()
    module.configure_model()
    source = SyntheticScenes(size=8, image_size=32)
    stored = {name: value.clone() for name, value in module.state_dict().items()}
    recalibrate(module, source, batch_size=8)
    transform, first = module.image_transform(False), batch_norms(module)[0]
    pixels = torch.stack([transform(source[row].image) for row in range(8)])
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.encode_image(pixels)
    hook.remove()
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not first.training and first.momentum == 0.1
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, stored[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)


class TestScoring:
    def test_words_or_the_head(self) -> None:
        module = module_of(ClassifierModule, class_names=NAMES).eval()
        dataset = EvaluationSet(SyntheticScenes(size=6, image_size=32, held_out=True), NAMES, ["a photo of a {}."])
        module.score_classes(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        with torch.no_grad():
            module.model.classes.weight.copy_(torch.zeros(3, 16))
        label = [pair.label for pair in (dataset.source[row] for row in range(6))]
        assert accuracy(module, dataset) == sum(number == 0 for number in label) / 6  # all alike: the first class

    def test_pairs_by_the_recall_of_both_directions(self, pair: tuple[ClipModule, ClipModule]) -> None:
        """Against ranks counted one by one in float64; three captions an image, more than ten images."""
        source = CaptionedScenes(14)
        module, dataset = pair[1], EvaluationSet(source, [], ["{}"])
        images = torch.stack([module.image_transform(train=False)(source[row].image) for row in range(len(source))])
        image = module.encode_image(images).double().numpy()
        texts = [(caption, row) for row in range(len(source)) for caption in source.captions(row)]
        text = module.encode_text([caption for caption, _ in texts]).double().numpy()
        own = np.array([row for _, row in texts])
        found = []
        for row in range(len(source)):  # images find texts: the best own text, others that are as good before it
            scores = (text @ image[row]).astype(np.float32)
            found.append((scores[own != row] >= scores[own == row].max()).sum() < 10)
        by_image = np.mean(found)
        found = []
        for place, row in enumerate(own):
            scores = (image @ text[place]).astype(np.float32)
            found.append((np.delete(scores, row) >= scores[row]).sum() < 10)
        expected = (by_image + np.mean(found)) / 2
        assert measure(dataset) == "mean R@10" and 0 < expected < 1
        assert mean_recall(module, dataset, batch_size=5) == pytest.approx(expected, abs=1e-6) == score(module, dataset)

    def test_neither_labels_nor_captions(self) -> None:
        dataset = EvaluationSet(CaptionedScenes(3, captions=0), [], ["{}"])
        with pytest.raises(InputError, match="no image has a caption, and the set has no classes: it cannot be scored"):
            score(module_of(ClipModule), dataset)

    def test_no_labels(self, tmp_path: Path) -> None:
        from small import write_folder

        from lightning_clip.data import pair_sources

        write_folder(tmp_path)
        dataset = EvaluationSet(pair_sources.build(str(tmp_path)), ["a", "b"], ["{}"])
        with pytest.raises(InputError, match="no image has a label: the set of classes a, b cannot be scored"):
            accuracy(module_of(ClipModule), dataset)


@pytest.fixture
def folder(pair: tuple[ClipModule, ClipModule], tmp_path: Path) -> Path:
    """Two checkpoints and a suite."""
    for name, module in zip(("before", "after"), pair, strict=True):
        write_checkpoint(module, tmp_path / f"{name}.ckpt")
    scenes = "{name: synthetic, held_out: true, image_size: 32, size: "
    (tmp_path / "suite.yaml").write_text(
        f"sets:\n  val: {scenes}16}}\n  target: {scenes}12}}\n  shifted: {scenes}10, protocols: [zero_shot]}}\n"
    )
    return tmp_path


class CaptionedScenes(PairSource):
    """Rendered scenes with so many captions each."""

    def __init__(self, size: int, captions: int = 3) -> None:
        self.scenes, self.count = SyntheticScenes(size=size, image_size=32), captions

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Pair:
        pair = self.scenes[index]
        ways = ("{}", "a picture: {}", "{}, seen from above")[: self.count]
        return replace(pair, captions=tuple(way.format(pair.captions[0]) for way in ways))


class TestCommands:
    def test_interpolate_over_labels_and_pairs(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        suite = (folder / "suite.yaml").read_text()
        (folder / "mixed.yaml").write_text(f"{suite}  pairs: {{name: synthetic, image_size: 32, size: 12, retrieval: true}}\n")
        arguments = [str(folder / "before.ckpt"), str(folder / "after.ckpt"), "--alpha=0,1", "--choose-on=pairs"]
        output = ["--output", str(folder / "mixed.ckpt"), "--figure", str(folder / "curve.png")]
        assert main(["interpolate", *arguments, "--suite", str(folder / "mixed.yaml"), *output]) == 0
        printed = capsys.readouterr().out
        assert "pairs, mean R@10 *" in printed.replace("\n", " ") and "val, top-1" in printed and "best on pairs" in printed

    def test_interpolate(self, folder: Path, capsys: pytest.CaptureFixture[str], pair: tuple[ClipModule, ClipModule]) -> None:
        arguments = [str(folder / "before.ckpt"), str(folder / "after.ckpt"), "--alpha=0:1:0.5", "--choose-on=val"]
        output = ["--output", str(folder / "mixed.ckpt"), "--figure", str(folder / "curve.png")]
        assert main(["interpolate", *arguments, "--suite", str(folder / "suite.yaml"), *output]) == 0
        printed = capsys.readouterr().out
        assert "val, top-1 *" in printed and "the best on val" in printed and "0.5" in printed
        with Image.open(folder / "curve.png") as picture:
            assert picture.width > 600
        mixed = ClipModule.load_from_checkpoint(folder / "mixed.ckpt")
        states = [module.model.state_dict() for module in pair]
        candidates = [interpolate(*states, alpha) for alpha in (0, 0.5, 1)]
        assert any(torch.equal(mixed.model.logit_scale, state["logit_scale"]) for state in candidates)

    def test_from_what_a_run_began_with(self, folder: Path, pair: tuple[ClipModule, ClipModule]) -> None:
        """A folder in the place of published weights."""
        export(pair[0], "safetensors", folder / "published")
        given = [str(folder / "published"), str(folder / "after.ckpt"), "--alpha=0", "--output", str(folder / "mixed.ckpt")]
        assert main(["interpolate", *given]) == 0
        assert_same_texts(ClipModule.load_from_checkpoint(folder / "mixed.ckpt"), pair[0])

    def test_one_alpha_needs_no_sets(self, folder: Path, pair: tuple[ClipModule, ClipModule]) -> None:
        arguments = [str(folder / "before.ckpt"), str(folder / "after.ckpt"), "--alpha=0.5"]
        assert main(["interpolate", *arguments, "--output", str(folder / "half.ckpt")]) == 0
        half = ClipModule.load_from_checkpoint(folder / "half.ckpt").model.state_dict()
        for name, value in half.items():
            assert torch.equal(value, (pair[0].model.state_dict()[name] + pair[1].model.state_dict()[name]) / 2)

    @pytest.mark.parametrize("method", ["greedy", "uniform"])
    def test_soup(self, folder: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = [str(folder / "before.ckpt"), str(folder / "after.ckpt"), f"--method={method}", "--choose-on=val"]
        output = ["--suite", str(folder / "suite.yaml"), "--output", str(folder / "soup.ckpt")]
        assert main(["soup", *arguments, *output]) == 0
        assert "in the soup" in capsys.readouterr().out
        ClipModule.load_from_checkpoint(folder / "soup.ckpt")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--alpha=0:1"], "--alpha '0:1' must be numbers such as"),
            (["--alpha=0:inf:1"], "--alpha '0:inf:1' must be numbers such as"),
            (["--alpha=1", "--figure=curve.txt"], "--figure 'curve.txt' must end in .png"),
            ([], "--alpha with several values needs sets: give --suite and --choose-on"),
            (["--alpha=1", "--output=x.pt"], "--output 'x.pt' must end in .ckpt"),
            (["--suite=SUITE"], "several sets and none to choose on"),
            (["--suite=SUITE", "--choose-on=vol"], "unknown set 'vol' to choose on"),
            (["--suite=EMPTY", "--choose-on=val"], "has no sets: give sets"),
            (["--suite=ONE", "--choose-on=val"], "has neither one class an image of several, nor pairs (retrieval: true)"),
        ],
    )
    def test_mistakes(self, folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "empty.yaml").write_text("sets: {}")
        (folder / "one.yaml").write_text("sets: {val: {name: synthetic, size: 4, class_names: [all], retrieval: true}}")
        places = {name: str(folder / f"{name.lower()}.yaml") for name in ("SUITE", "EMPTY", "ONE")}
        given = ["--output", str(folder / "x.ckpt")]
        for argument in arguments:
            flag, _, value = argument.partition("=")
            given += [flag, places.get(value, value)]
        assert main(["interpolate", str(folder / "before.ckpt"), str(folder / "after.ckpt"), *given]) == 2
        assert message in capsys.readouterr().err

    def test_nothing_is_replaced(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = str(folder / "before.ckpt")
        assert main(["soup", before, "--method=uniform", "--output", before]) == 2
        assert "exists and is never replaced" in capsys.readouterr().err

    def test_other_architectures(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_checkpoint(module_of(ClipModule, embed_dim=8), folder / "narrow.ckpt")
        given = [str(folder / "before.ckpt"), str(folder / "narrow.ckpt"), "--alpha=0.5", "--output", str(folder / "x.ckpt")]
        assert main(["interpolate", *given]) == 2
        assert "only models of one architecture can be mixed" in capsys.readouterr().err


def test_batch_norm_is_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"embed_dim": 16, "tokenizer": {"name": "clip", "context_length": 24}}
    module = ClipModule({"name": "resnet10t", "image_size": 32}, TEXT, **settings)
    module.configure_model()
    write_checkpoint(module, tmp_path / "a.ckpt")
    given = ["soup", str(tmp_path / "a.ckpt"), "--method=uniform", "--output"]
    assert main([*given, str(tmp_path / "b.ckpt")]) == 0
    assert "layers of batch normalisation: averaged statistics are not those of averaged weights" in capsys.readouterr().out
