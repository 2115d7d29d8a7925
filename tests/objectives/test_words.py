"""Words of captions predicted from images: the loss beside loops, the vocabulary, zero-shot scores and mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import IMAGE, small_data, small_module, small_trainer
from variants.senses import SETTINGS, WORDS, Senses, batch_of

from lightning_clip import ClipDataModule, ClipModule, InputError, Pair, PairBatch
from lightning_clip.data import PairSource
from lightning_clip.data.training_captions import training_captions
from lightning_clip.data.words import common_entries, inverse_frequencies, words_in
from lightning_clip.export.export import export
from lightning_clip.losses.bags import Bags, bag_loss
from lightning_clip.objectives import Words, build_objective

VOCABULARY = {"red": 0.5, "blue": 1.5, "small": 0.25, "night": 2.0}


def words_module(**settings: Any) -> ClipModule:
    torch.manual_seed(0)
    return ClipModule(IMAGE, objective={"name": "words", **settings}, **SETTINGS)


def losses_by_loops(logits: np.ndarray, captions: list[str], weights: dict[str, float], prediction: str) -> list[float]:
    """Float64, word by word, from the formulas of the page."""
    places = {word: place for place, word in enumerate(weights)}
    found = []
    for row, caption in zip(logits, captions, strict=True):
        own = [word for word in dict.fromkeys(caption.split()) if word in weights]
        total = sum(weights[word] for word in own)
        loss = 0.0
        if prediction == "softmax":
            whole = sum(math.exp(value) for value in row)
            for word in own:
                loss -= weights[word] / total * math.log(math.exp(row[places[word]]) / whole)
        else:
            for word, place in places.items():
                chance = 1 / (1 + math.exp(-row[place]))
                loss -= len(own) * weights[word] / total * math.log(chance) if word in own else math.log(1 - chance)
        found.append(loss)
    return found


class TestLoss:
    @pytest.mark.parametrize("prediction", ["softmax", "binary"])
    @pytest.mark.parametrize("idf", [True, False])
    def test_beside_loops(self, prediction: str, idf: bool) -> None:
        module = words_module(vocabulary=VOCABULARY, prediction=prediction, idf=idf).double()
        batch = batch_of(module, Senses())
        output = module.encoded_rows(batch)
        logits = module.objective.logits(module.model, output.features["image"]).detach().numpy()
        weights = VOCABULARY if idf else dict.fromkeys(VOCABULARY, 1.0)
        expected = losses_by_loops(logits, [captions[0] for captions in batch.captions], weights, prediction)
        torch.testing.assert_close(output.rows["words"].tolist(), expected, rtol=1e-6, atol=1e-9)
        assert module.compute_loss(output, batch)["loss"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-6)

    def test_words_of_all_captions(self) -> None:
        """An image's captions count as one text, whichever of them is shown."""
        module = words_module(vocabulary=VOCABULARY, all_captions=True).double()
        batch = batch_of(module, Senses())
        batch = batch._replace(captions=[(*own, "a small blue night") for own in batch.captions])
        output = module.encoded_rows(batch)
        logits = module.objective.logits(module.model, output.features["image"]).detach().numpy()
        expected = losses_by_loops(logits, [" ".join(own) for own in batch.captions], VOCABULARY, "softmax")
        torch.testing.assert_close(output.rows["words"].tolist(), expected, rtol=1e-6, atol=1e-9)
        assert module.objective.to_mapping()["all_captions"] is True

    def test_closed_forms(self) -> None:
        """Equal logits: log V for a softmax, V log 2 for binary predictions, whatever the words."""
        bags = Bags(
            torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2]), torch.tensor([0.3, 0.7, 1.0]), torch.tensor([2.0, 2.0, 1.0])
        )
        for prediction, expected in (("softmax", math.log(8)), ("binary", 8 * math.log(2))):
            found = bag_loss(torch.full((2, 8), 0.0, dtype=torch.float64), bags, prediction)
            assert found.tolist() == pytest.approx([expected, expected], rel=1e-7)

    def test_gradient_of_a_softmax_is_probability_minus_share(self) -> None:
        logits = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
        bags = Bags(torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([0.25, 0.75]).double(), torch.full((2,), 2.0))
        (gradient,) = torch.autograd.grad(bag_loss(logits, bags).sum(), logits)
        torch.testing.assert_close(gradient[0], logits[0].softmax(0) - torch.tensor([0, 0.25, 0, 0.75, 0]).double())

    def test_half_precision_is_summed_in_single(self) -> None:
        logits = torch.randn(2, 1000).bfloat16()
        bags = Bags(torch.tensor([0, 1]), torch.tensor([3, 5]), torch.ones(2), torch.ones(2))
        assert torch.equal(bag_loss(logits, bags), bag_loss(logits.float(), bags))

    def test_a_caption_of_unknown_words_counts_as_0(self) -> None:
        module = words_module(vocabulary=["nothing", "of", "these"])
        assert (
            float(module.compute_loss(module.encoded_rows(batch := batch_of(module, Senses())), batch)["loss"].detach()) == 0.0
        )

    def test_tokens_as_entries(self) -> None:
        """Of a vocabulary of token ids, the start token among all captions' weighs nothing."""
        module = words_module(unit="tokens")
        module.objective.prepare(ClipDataModule(Senses()).attach(module), module.tokenizer)
        batch = batch_of(module, Senses(), 3)
        start, *own, end = module.tokenizer.encode([batch.captions[0][0]])[0]
        vocabulary = module.objective.vocabulary
        assert vocabulary[str(start)] == vocabulary[str(end)] == 0.0 and all(vocabulary[str(token)] > 0 for token in own)
        module.configure_model()
        bags = module.objective.bags(module.objective.entries(batch))
        assert float(bags.shares[bags.rows == 0].sum()) == pytest.approx(1.0)


class TestVocabulary:
    def test_words_of_any_language(self) -> None:
        assert words_in("Zwei GRÜNE Äpfel, 2 dogs' don't; 一只狗。") == [
            "zwei",
            "grüne",
            "äpfel",
            "2",
            "dogs",
            "don't",
            "一",
            "只",
            "狗",
        ]

    def test_by_frequency_with_inverse_frequencies(self) -> None:
        module = words_module(size=4)
        data = ClipDataModule(Senses(), local_batch_size=8)
        module.objective.prepare(data, module.tokenizer)
        documents = [set(Senses()[index].captions[0].split()) for index in range(32)]
        counts = {word: sum(word in own for own in documents) for word in WORDS}
        first = sorted(counts, key=lambda word: (-counts[word], word))[:4]
        assert list(module.objective.vocabulary) == first
        assert list(module.objective.vocabulary.values()) == pytest.approx(
            [math.log(32 / (1 + counts[word])) for word in first]
        )

    def test_the_layer_begins_at_the_frequencies(self) -> None:
        module = words_module(vocabulary=VOCABULARY)
        torch.testing.assert_close(module.model.words.bias.tolist(), [-value for value in VOCABULARY.values()])

    def test_captions_are_read_without_images_and_at_even_distances(self) -> None:
        class Blind(Senses):
            def __getitem__(self, index: int) -> Pair:
                raise AssertionError("an image was read")

            def captions(self, index: int) -> tuple[str, ...]:
                return (f"number {index}",)

        data = ClipDataModule(Blind(10), local_batch_size=2)
        assert [texts[0] for texts in training_captions(data, most=5)] == [f"number {index}" for index in range(0, 10, 2)]

    def test_captions_made_of_class_names(self) -> None:
        class Classes(PairSource):
            class_names = ("cat", "dog")

            def __len__(self) -> int:
                return 4

            def __getitem__(self, index: int) -> Pair:
                return Pair(torch.zeros(3, 32, 32, dtype=torch.uint8), (), str(index), index % 2)

        data = ClipDataModule(Classes(), captions={"name": "template", "templates": ["a photo of a {}."]})
        assert [texts[0] for texts in training_captions(data)] == ["a photo of a cat.", "a photo of a dog."] * 2

    def test_counts_once_in_a_document(self) -> None:
        counts, documents = common_entries([["a", "a"], ["a", "b"], ["c"]], size=2)
        assert (dict(counts), documents) == ({"a": 2, "b": 1}, 3)
        assert inverse_frequencies(counts, documents) == {"a": 0.0, "b": math.log(1.5)}


class TestRun:
    def test_learns_words_and_scores_classes_by_them(self, tmp_path: Path) -> None:
        """Colours of plain squares: after some steps a square is found by its colour's name; the checkpoint needs no data."""
        trainer = small_trainer(tmp_path, max_steps=60)
        module = ClipModule(IMAGE, objective="words", embed_dim=16, training={"optimizer": {"lr": 1e-2, "warmup_steps": 1}})
        trainer.fit(module, ClipDataModule(Squares(), local_batch_size=12))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        images = torch.stack([Squares()[index].image for index in range(6)])  # type: ignore[misc]
        scores = again.predictor.scores(images, ["red square", ["green square", "lime"], "blue"], ["a {}"])
        assert scores.argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2]
        assert torch.equal(
            scores, module.eval().predictor.scores(images, ["red square", ["green square", "lime"], "blue"], ["a {}"])
        )
        assert set(again.objective.vocabulary) == {"a", "square", "red", "green", "blue"}  # type: ignore[arg-type]
        classes = ["red square", ["green square", "lime"], "blue"]
        for name in (str(tmp_path / "last.ckpt"), str(export(again, "safetensors", tmp_path / "out").folder)):
            opened = ClipModule.from_pretrained(name)
            assert torch.equal(opened.predictor.scores(images, classes, ["a {}"]), scores)
        with pytest.raises(InputError, match="weights beside its towers .words., which .* does not hold: export its towers"):
            export(again, "huggingface", tmp_path / "other")
        other = ClipModule(pretrained=str(tmp_path / "last.ckpt"), objective={"name": "words", "vocabulary": ["red"]})
        assert other.model.words.weight.shape == (1, 16)  # type: ignore[union-attr]

    def test_scores_are_weighed_means_of_log_probabilities(self) -> None:
        module = words_module(vocabulary=VOCABULARY)
        images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        logs = module.objective.logits(module.model, module.encode_image(images)).log_softmax(dim=1)
        found = module.predictor.scores(images, ["small blue thing", "night", "zebra"], ["a red {}"])
        torch.testing.assert_close(found[:, 0], (0.25 * logs[:, 2] + 1.5 * logs[:, 1]) / 1.75)
        torch.testing.assert_close(found[:, 1], logs[:, 3])
        assert torch.isinf(found[:, 2]).all()

    def test_beside_pairs_the_layer_is_for_training_alone(self) -> None:
        after = build_objective([{"name": "pairs"}, {"name": "words", "vocabulary": ["a"], "weight": 0.5}])
        before = build_objective([{"name": "words", "vocabulary": ["a"]}, {"name": "pairs", "weight": 0.5}])
        assert after.training_parts == {"words"} and not before.training_parts

    def test_an_export_omits_the_layer_and_a_checkpoint_keeps_it(self, tmp_path: Path) -> None:
        module = small_module(objective=[{"name": "pairs"}, {"name": "words", "weight": 0.5}])
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, small_data())
        assert {"train/loss", "train/pairs", "train/words"} <= set(trainer.callback_metrics)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "last.ckpt")
        assert torch.equal(again.model.words.weight, module.model.words.weight)  # type: ignore[union-attr,arg-type]
        assert export(again, "safetensors", tmp_path / "out").image_difference == 0.0
        weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        assert "model.words.weight" in weights
        assert not [name for name in load_file(tmp_path / "out/model.safetensors") if name.startswith("words")]


class Squares(PairSource):
    """Squares of three colours."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Pair:
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[index % 3] = 255
        return Pair(image, (f"a {('red', 'green', 'blue')[index % 3]} square",), str(index))


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"size": 0}, "objective 'words': size 0 must be a whole number >= 1"),
            ({"prediction": "hinge"}, "prediction 'hinge' must be softmax or binary"),
            ({"unit": "letters"}, "unit 'letters' must be words or tokens"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            words_module(**settings)

    def test_a_vocabulary_that_no_caption_meets(self) -> None:
        objective = Words(vocabulary={"zebra": 1.0, "gnu": 1.0})
        with pytest.raises(
            InputError, match=r"none of the 2 words of its vocabulary \(zebra, gnu, ...\) occurs in the training"
        ):
            objective.prepare(ClipDataModule(Senses()), None)

    def test_no_captions_to_take_words_from(self) -> None:
        with pytest.raises(InputError, match="objective 'words' has no vocabulary, and there are no training captions"):
            words_module().configure_model()

    def test_classes_without_a_known_word(self) -> None:
        module = words_module(vocabulary=VOCABULARY)
        with pytest.raises(
            InputError, match=r"none of the 2 class names \(zebra, gnu, ...\) has an entry in the vocabulary of"
        ):
            module.predictor.scorer(["zebra", "gnu"])

    def test_is_not_asked_of_images_without_captions(self) -> None:
        module = words_module(vocabulary=VOCABULARY)
        batch: PairBatch = batch_of(module, Senses(), 2)
        assert module.objective.is_given(batch) and not module.objective.is_given(batch._replace(captions=[(), ()]))
