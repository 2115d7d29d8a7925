"""CoOp, CLIP-Adapter and Tip-Adapter-F: where they begin, what learns, what their formulas are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from small import IMAGE, small_trainer
from tasks.labelled import GIVEN, NAMES, fit, labelled_data, module_of
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.core.types import Pair
from lightning_clip.data import ClipTokenizer, train_tokenizer
from lightning_clip.encoders import TextEncoder
from lightning_clip.evaluation.tip_adapter import TipAdapter, tip_logits, tune_keys
from lightning_clip.tasks import ClipAdapterModule, CoopModule, TipAdapterModule
from lightning_clip.tasks.learned_prompt import prompt_tokens

PICTURES = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
WORDS = "a photo of a"
BERT = {
    "name": "hf",
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 300,
    },
}


def changed(before: dict[str, Tensor], module: ClipModule) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


class TestCoop:
    @pytest.mark.parametrize("class_specific", [False, True])
    def test_begins_as_its_words(self, class_specific: bool) -> None:
        module = module_of(CoopModule, class_names=NAMES, context=WORDS, class_specific=class_specific).eval()
        tokens, mask = module.tokenizer([f"{WORDS} {name}." for name in NAMES])
        longest = int(mask.sum(dim=1).max())
        with torch.no_grad():
            words = module.model.text_projection(module.model.text_encoder(tokens[:, :longest], mask[:, :longest]))
            assert torch.equal(module.classifier(), normalize(words, dim=-1).T)
        assert module.model.classes.vectors.shape == (3 if class_specific else 1, 4, 32)

    def test_another_tower_and_tokenizer(self) -> None:
        """Bidirectional, with the vocabulary of byte-level pairs in which words begin with a space."""
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["a photo of a red circle."] * 5, 300)
        module = CoopModule(IMAGE, BERT, class_names=NAMES, context=WORDS, **{**GIVEN, "tokenizer": tokenizer}).eval()
        words = module.encode_text([f"{WORDS} {name}." for name in NAMES])
        torch.testing.assert_close(module.classifier().detach(), words.T, rtol=1e-5, atol=1e-6)

    def test_the_middle_and_the_front(self) -> None:
        start, end = 49406, 49407
        tokenizer = ClipTokenizer()
        (a, photo, of), cat, stop = tokenizer.encode(["a photo of"])[0][1:-1], tokenizer.encode(["cat"])[0][1], 269
        rows, places = prompt_tokens(tokenizer, ["cat"], "a photo of", "middle")
        assert rows == [[start, a, cat, photo, of, stop, end]] and places == [[1, 3, 4]]
        rows, places = prompt_tokens(tokenizer, ["cat"], 4, "middle")
        assert rows == [[start, 0, 0, cat, 0, 0, stop, end]] and places == [[1, 2, 4, 5]]
        rows, places = prompt_tokens(tokenizer, ["cat"], "a photo of", "front")
        assert rows == [[start, cat, a, photo, of, stop, end]] and places == [[2, 3, 4]]

    @pytest.mark.parametrize("class_position", ["end", "middle", "front"])
    def test_only_the_vectors_learn(self, class_position: str, tmp_path: Path) -> None:
        module = module_of(CoopModule, context=3, class_position=class_position)
        before = copy.deepcopy(module.state_dict())
        trainer = fit(module, tmp_path)
        assert changed(before, module) == {"model.classes.vectors", "model.classes.started"}
        trainer.save_checkpoint(tmp_path / "coop.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "coop.ckpt")
        assert isinstance(again, CoopModule) and (again.classes.context, again.classes.class_position) == (3, class_position)
        assert torch.equal(again.score_classes(PICTURES), module.eval().score_classes(PICTURES))

    def test_gradient_reaches_the_vectors_of_each_class(self) -> None:
        module = module_of(CoopModule, class_names=NAMES, context=2, class_specific=True)
        module.classes.class_logits(module.model, torch.ones(1, 16))[0, 1].backward()
        assert (module.model.classes.vectors.grad.norm(dim=(1, 2)) > 0).tolist() == [False, True, False]

    def test_the_ordinary_road_of_words_is_untouched(self) -> None:
        module = module_of(CoopModule, class_names=NAMES, context=2).eval()
        before = module.encode_text(["a dog"])
        module.classifier()
        assert torch.equal(module.encode_text(["a dog"]), before)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"context": 0}, "context 0 must be a number of vectors from 1, or words"),
            ({"context": ""}, "context '' must be a number of vectors from 1, or words"),
            ({"context": "  "}, "context '  ' has no token"),
            ({"class_position": "frnt"}, "unknown class_position 'frnt'.*front"),
            ({"context": "a photo " * 11}, "the prompt of 'red circle' has 27 tokens with its context, more than"),
            (
                {"context": "a photo of a", "class_names": ["a cat", "cat " * 30]},
                "has 28 tokens with its context, more than context_length 24: take fewer context vectors or a shorter name",
            ),
            ({"context": 20}, "the prompt of 'red circle' has 25 tokens with its context, more than context_length 24"),
        ],
    )
    def test_mistakes(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            module_of(CoopModule, **{"class_names": NAMES, **arguments})

    def test_words_that_fill_the_context(self) -> None:
        """No token more would fit."""
        module = module_of(CoopModule, class_names=["cat " * 17, "dog"], context="a photo of a")
        assert module.model.classes.tokens.shape == (2, 24)
        words = module.encode_text([f"a photo of a {name}." for name in module.class_names]).T
        torch.testing.assert_close(module.classifier().detach(), words)

    def test_a_tower_without_a_table(self) -> None:
        class Bag(TextEncoder):
            def __init__(self) -> None:
                super().__init__(output_dim=32, context_length=24)
                self.table = nn.EmbeddingBag(49408, 32)

            def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
                return self.table(tokens)

        with pytest.raises(InputError, match=r"Bag has no token_table\(\), which learned prompts and new tokens"):
            CoopModule(IMAGE, Bag(), class_names=NAMES, **GIVEN).configure_model()


class TestClipAdapter:
    def test_ratio_0_is_zero_shot(self) -> None:
        module = module_of(ClipAdapterModule, class_names=NAMES, ratio=0.0).eval()
        expected = module.model.scale() * module.encode_image(PICTURES) @ module.zero_shot_classifier(NAMES)
        assert torch.equal(module.score_classes(PICTURES), expected)

    def test_formula(self) -> None:
        module = module_of(ClipAdapterModule, class_names=NAMES, ratio=0.3, reduction=2).eval()
        features, logits = module.encode_image(PICTURES).double(), module.score_classes(PICTURES)
        down, up = (module.model.classes.layers[place].weight.detach().double() for place in (0, 2))
        mixed = 0.3 * ((features @ down.T).clamp(min=0) @ up.T).clamp(min=0) + 0.7 * features
        expected = module.model.scale() * normalize(mixed, dim=1) @ module.zero_shot_classifier(NAMES).double()
        torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)

    def test_only_the_adapter_learns(self, tmp_path: Path) -> None:
        module = module_of(ClipAdapterModule)
        before = copy.deepcopy(module.state_dict())
        trainer = fit(module, tmp_path)
        classes = "model.classes."
        assert changed(before, module) == {
            classes + name for name in ("layers.0.weight", "layers.2.weight", "words", "started")
        }
        trainer.save_checkpoint(tmp_path / "adapter.ckpt")
        again = ClipModule.load_from_checkpoint(tmp_path / "adapter.ckpt")
        assert torch.equal(again.score_classes(PICTURES), module.eval().score_classes(PICTURES))  # type: ignore[operator]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"ratio": 1.2}, r"ratio 1.2 must be in \[0, 1\]"),
            ({"reduction": 17}, "reduction 17 must be from 1 to embed_dim 16"),
        ],
    )
    def test_mistakes(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            module_of(ClipAdapterModule, class_names=NAMES, **arguments)


class TestTip:
    def features(self, module: TipAdapterModule, data: ClipDataModule) -> tuple[Tensor, Tensor]:
        source, transform = data.source("train"), module.image_transform(False)
        pixels = torch.stack([transform(source[row].image) for row in range(len(source))])
        return module.encode_image(pixels), torch.tensor([source[row].label for row in range(len(source))])

    def test_training_equals_tune_keys(self, tmp_path: Path) -> None:
        """Full batches, so that the order does not matter: the same keys after five steps of the same schedule."""
        optimizer = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 0.01, "warmup_steps": 0}
        module, data = module_of(TipAdapterModule, optimizer=optimizer, entries=16), labelled_data(batch=16)
        features, label = self.features(module, data)
        words = module.zero_shot_classifier(module.class_names)
        data._specs["val"] = None
        fit(module, tmp_path, steps=5, data=data)
        expected = tune_keys(features, label, words, float(module.model.scale()), epochs=5, lr=1e-2)
        torch.testing.assert_close(normalize(module.model.classes.keys, dim=1), expected, rtol=1e-4, atol=1e-5)
        assert (expected - features).norm() > 1e-2

    def test_logits_are_those_of_the_function(self, tmp_path: Path) -> None:
        module, data = module_of(TipAdapterModule, entries=16), labelled_data()
        features, label = self.features(module, data)
        words, scale = module.zero_shot_classifier(module.class_names), float(module.model.scale())
        trainer = fit(module, tmp_path, data=data)
        trainer.save_checkpoint(tmp_path / "tip.ckpt")
        again = TipAdapterModule.load_from_checkpoint(tmp_path / "tip.ckpt")
        cache: Any = again.model.classes
        assert torch.equal(cache.values, one_hot(label, 8).float())
        keys = normalize(cache.keys.detach(), dim=1)
        options = {"scale": scale, "alpha": float(cache.alpha), "beta": float(cache.beta)}
        expected = tip_logits(module.encode_image(PICTURES), words, keys, cache.values, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(again.score_classes(PICTURES), expected)
        assert not torch.allclose(keys, features)

    def test_alpha_0_is_zero_shot(self, tmp_path: Path) -> None:
        module = module_of(TipAdapterModule, entries=16)
        module.trainer = small_trainer(tmp_path)
        module.trainer.datamodule = labelled_data()
        found = module.eval()
        found.classes.fill(found.predictor, module.trainer.datamodule)
        found.model.classes.alpha.fill_(0.0)
        expected = found.model.scale() * found.encode_image(PICTURES) @ found.zero_shot_classifier(found.class_names)
        torch.testing.assert_close(found.score_classes(PICTURES), expected)

    def test_what_is_validated_is_searched_for_these_keys(self, tmp_path: Path) -> None:
        """Not for those of the epoch before."""
        found: list[tuple[float, float]] = []

        class Watch(pl.Callback):
            def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
                cache, words = module.model.classes, module.model.classes.words.T
                keys, scale = normalize(cache.keys.detach(), dim=1), float(module.model.scale())
                source = trainer.datamodule.source("val")
                best = TipAdapter.searched(keys, cache.values, *module.classes.features(module.predictor, source), words, scale)
                found.append((best.alpha, best.beta))
                assert (float(cache.alpha), float(cache.beta)) == pytest.approx(found[-1])

        module = module_of(TipAdapterModule, entries=32, optimizer={"lr": 0.3, "warmup_steps": 0})
        fit(module, tmp_path, steps=12, data=labelled_data(shots=4), callbacks=[Watch()])
        assert len(set(found)) > 1

    def test_adapters_of_the_tower_change_what_is_searched_on(self, tmp_path: Path) -> None:
        adapt = {"image": {"lora": {"rank": 2}}, "store": "full"}
        module = module_of(TipAdapterModule, entries=16, adapt=adapt)
        fit(module, tmp_path)
        assert module.classes._val is None

    def test_counts_the_training_data(self, tmp_path: Path) -> None:
        module = TipAdapterModule(IMAGE, {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}, **GIVEN)
        fit(module, tmp_path, steps=1, data=labelled_data(shots=1))
        assert module.classes.entries == 8 and float(module.model.classes.beta) != 0

    def test_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="alpha -1 must be >= 0 and beta 5.5 > 0"):
            module_of(TipAdapterModule, alpha=-1)
        with pytest.raises(InputError, match="does not know how many labelled images there are: give entries, or data"):
            module_of(TipAdapterModule, class_names=NAMES)
        with pytest.raises(InputError, match="was made for 5 labelled images and finds 16 training images: fit it again"):
            fit(module_of(TipAdapterModule, entries=5), tmp_path)
        source = [Pair(Image.new("RGB", (32, 32)), ("a",), str(label), label) for label in range(3)]
        with pytest.raises(InputError, match="image '2' has label 2, but 2 classes are learned"):
            fit(module_of(TipAdapterModule, entries=3, class_names=NAMES[:2]), tmp_path, data=ClipDataModule(source))  # type: ignore[arg-type]
