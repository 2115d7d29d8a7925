"""Template sets and zero-shot classifiers against plain loops and open_clip's own code."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.functional import normalize
from waiting import PATIENCE

from lightning_clip.core.errors import InputError
from lightning_clip.prompts import resolve_templates, templates, zero_shot_classifier
from lightning_clip.prompts.classifier import template_vectors


class Encoder:
    """Any string to its own random feature, not of unit length; remembers the batches it saw."""

    def __init__(self, width: int = 8, dtype: torch.dtype = torch.float64) -> None:
        self.width, self.dtype = width, dtype
        self.batches: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.batches.append(texts)
        return torch.stack([self.feature(text) for text in texts])

    def feature(self, text: str) -> Tensor:
        seed = int.from_bytes(text.encode()[-7:], "big") + len(text)
        feature = torch.randn(self.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (feature * len(text)).to(self.dtype)


def loops(encoder: Encoder, class_names: list[str], patterns: list[str]) -> Tensor:
    columns = []
    for name in class_names:
        total = torch.zeros(encoder.width, dtype=torch.float64)
        for pattern in patterns:
            feature = encoder.feature(pattern.replace("{}", name)).double()
            total += feature / feature.norm()
        columns.append(total / len(patterns) / (total / len(patterns)).norm())
    return torch.stack(columns, dim=1)


class TestTemplates:
    def test_sets(self) -> None:
        assert templates("simple") == ["a photo of a {}."]
        assert templates("plain") == ["{}"]
        assert len(templates("imagenet")) == len(set(templates("imagenet"))) == 80
        assert len(templates("imagenet_simple")) == 7
        assert templates("imagenet")[0] == "a bad photo of a {}."
        assert "itap of a {}." in templates("imagenet_simple")

    def test_imagenet_prompts_are_open_clip_s(self) -> None:
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        for name, theirs in (("imagenet", OPENAI_IMAGENET_TEMPLATES), ("imagenet_simple", SIMPLE_IMAGENET_TEMPLATES)):
            ours = [pattern.replace("{}", "tench") for pattern in templates(name)]
            assert ours == [template("tench") for template in theirs]

    @pytest.mark.slow
    def test_open_clip_is_imported_only_where_used(self) -> None:
        code = "import sys, lightning_clip.prompts as p; p.templates('simple'); assert 'open_clip' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ("simple", ["a photo of a {}."]),
            ("a {} on a table", ["a {} on a table"]),
            ("{}的照片", ["{}的照片"]),
            (["{}", "一张{}的图片"], ["{}", "一张{}的图片"]),
            (("{}, a kind of {}",), ["{}, a kind of {}"]),
        ],
    )
    def test_resolve(self, spec: str | list[str], expected: list[str]) -> None:
        assert resolve_templates(spec) == expected

    def test_a_set_may_be_changed_by_who_asked(self) -> None:
        templates("simple").append("{}")
        assert templates("simple") == ["a photo of a {}."]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("imagnet", "unknown template set 'imagnet': did you mean 'imagenet'? Known: "),
            ("a photo", "A template of your own has {} where the class name goes"),
            ("a photo of {label}", "template 'a photo of {label}' must have one {} where the class name goes"),
            (["{}", "a photo"], "template 'a photo' must have one {}"),
            (["{}", ""], "template '' must have one {}"),
            ([], "templates is an empty list: give at least one"),
            ([str.upper], "must be a string such as 'a photo of a {}.'"),
        ],
    )
    def test_refuses(self, spec: Any, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            resolve_templates(spec)


class TestClassifier:
    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.text("ab {}é猫", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=6, unique=True),
        st.lists(st.sampled_from(["{}", "a {}", "{}的照片", "{} {}", "the {}."]), min_size=1, max_size=4),
        st.integers(1, 5),
    )
    def test_equals_loops(self, class_names: list[str], patterns: list[str], batch_size: int) -> None:
        encoder = Encoder()
        found = zero_shot_classifier(encoder, class_names, patterns, batch_size)
        assert found.shape == (8, len(class_names))
        torch.testing.assert_close(found, loops(encoder, class_names, patterns), rtol=1e-9, atol=1e-9)

    def test_equals_open_clip(self) -> None:
        from open_clip import build_zero_shot_classifier

        class Model:
            def encode_text(self, texts: Any, normalize: bool) -> Tensor:
                assert normalize
                return torch.nn.functional.normalize(Encoder()(texts.items), dim=-1)

        class Tokens:
            def __init__(self, items: list[str]) -> None:
                self.items = items

            def to(self, device: str) -> Tokens:
                return self

        names, patterns = ["cat", "great white shark", "lynx"], ["a {}.", "{}", "art of the {}"]
        theirs = build_zero_shot_classifier(Model(), Tokens, names, patterns, num_classes_per_batch=2)
        torch.testing.assert_close(zero_shot_classifier(Encoder(), names, patterns), theirs)

    def test_each_prompt_is_encoded_once_beside_others_of_its_length(self) -> None:
        encoder = Encoder()
        zero_shot_classifier(encoder, ["dog", "a dog", "great white shark"], ["{}", "a {}", "{}"], batch_size=2)
        seen = [text for batch in encoder.batches for text in batch]
        assert sorted(seen) == sorted({"dog", "a dog", "a a dog", "great white shark", "a great white shark"})
        assert [len(text) for text in seen] == sorted(len(text) for text in seen)
        assert [len(batch) for batch in encoder.batches] == [2, 2, 1]

    def test_one_prompt_per_class_is_its_feature(self) -> None:
        encoder = Encoder()
        expected = normalize(torch.stack([encoder.feature("cat"), encoder.feature("dog")]), dim=-1).T
        torch.testing.assert_close(zero_shot_classifier(encoder, ["cat", "dog"], "plain"), expected)

    def test_order_of_classes_and_templates(self) -> None:
        names, patterns = ["cat", "dog", "lynx"], ["{}", "a {}"]
        found = zero_shot_classifier(Encoder(), names, patterns)
        turned = zero_shot_classifier(Encoder(), names[::-1], patterns[::-1])
        torch.testing.assert_close(turned.flip(1), found)

    def test_a_set_of_templates_by_name(self) -> None:
        encoder = Encoder()
        found = zero_shot_classifier(encoder, ["cat", "dog"], "imagenet")
        torch.testing.assert_close(found, loops(encoder, ["cat", "dog"], templates("imagenet")))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_keeps_the_dtype_and_unit_columns(self, dtype: torch.dtype) -> None:
        found = zero_shot_classifier(Encoder(dtype=dtype), ["cat", "dog"], "imagenet_simple")
        assert found.dtype == dtype
        torch.testing.assert_close(found.double().norm(dim=0), torch.ones(2).double(), rtol=1e-2, atol=0)

    def test_gradients_reach_the_encoder(self) -> None:
        weight = torch.randn(3, 4, requires_grad=True)
        classifier = zero_shot_classifier(lambda texts: torch.ones(len(texts), 3) @ weight, ["cat", "dog"])
        torch.autograd.backward(classifier.sum())
        assert weight.grad is not None

    @pytest.mark.parametrize(
        ("class_names", "message"),
        [
            ([], "class_names is empty: give one name per class"),
            (["cat", " "], "class name 1 is empty: give each class a name"),
            ("cat", "class_names 'cat' is one string: give a list"),
            ([0, 1], "class name 0 is 0, not a string"),
        ],
    )
    def test_refuses_names(self, class_names: Any, message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            zero_shot_classifier(Encoder(), class_names)

    def test_refuses_the_rest(self) -> None:
        with pytest.raises(InputError, match="batch_size 0 must be at least 1"):
            zero_shot_classifier(Encoder(), ["cat"], batch_size=0)
        with pytest.raises(InputError, match="unknown template set"):
            zero_shot_classifier(Encoder(), ["cat"], "sample")
        with pytest.raises(InputError, match=r"encode_text gave \(3,\) for 2 prompts"):
            zero_shot_classifier(lambda texts: torch.ones(3), ["cat", "dog"])


class TestSeveralNames:
    def test_are_averaged_in_each_template(self) -> None:
        encoder, patterns, names = Encoder(), ["a {}", "{}"], [["cat", "kitten"], "dog", ["dog"]]
        found = template_vectors(encoder, names, patterns)
        for row, pattern in enumerate(patterns):
            unit = [normalize(encoder.feature(pattern.replace("{}", name)), dim=0) for name in ("cat", "kitten", "dog")]
            torch.testing.assert_close(found[row, 0], normalize((unit[0] + unit[1]) / 2, dim=0))
            torch.testing.assert_close(found[row, 1], unit[2])
            torch.testing.assert_close(found[row, 2], unit[2])
        assert len(encoder.batches[0]) == 6  # each prompt once
        torch.testing.assert_close(zero_shot_classifier(encoder, names, patterns), normalize(found.sum(dim=0), dim=1).T)

    def test_mistakes(self) -> None:
        with pytest.raises(InputError, match="class 1 has no name: give at least one"):
            zero_shot_classifier(Encoder(), ["cat", []])
        with pytest.raises(InputError, match="class name 0 is empty"):
            zero_shot_classifier(Encoder(), [["cat", " "], "dog"])
