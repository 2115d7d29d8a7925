"""Choices of captions: drawn by seed, from what the pair has, and said where there is nothing."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from small import small_module, write_folder

from lightning_clip import ClipDataModule, InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.captions import Clean, Joined, Sentence, Tags, Template, caption_choices, random_caption


def pair(*captions: str, **more: Any) -> Pair:
    return Pair(b"", captions, "1", **more)


def drawn(choice: Any, of: Pair, times: int = 400) -> Counter[str]:
    return Counter(choice(of, random.Random(seed)) for seed in range(times))


class TestChoices:
    def test_weights(self) -> None:
        counts = drawn(random_caption, pair("a", "b", "c", weights=(8.0, 2.0, 0.0)), 2000)
        assert set(counts) == {"a", "b"} and abs(counts["a"] / 2000 - 0.8) < 0.04
        assert set(drawn(random_caption, pair("a", "b", "c"))) == {"a", "b", "c"}

    def test_template(self) -> None:
        labelled = pair(metadata={"class_name": "sea_lion", "breed": "x"})
        assert set(drawn(Template(["a {}", "two {}s"]), labelled)) == {"a sea lion", "two sea lions"}
        assert Template(["{}!"], column="breed")(labelled, random.Random(0)) == "x!"
        assert Template([{}])(labelled, random.Random(0)) == "sea lion"  # type: ignore[list-item]  # a lone "{}" of a recipe
        with pytest.raises(KeyError, match="no class name"):
            Template()(pair("a"), random.Random(0))

    def test_tags(self) -> None:
        tags = pair("#red_car, sun,, sun ,#sea")
        counts = drawn(Tags(), tags)
        assert len(counts) == 6 and all(set(text.split(", ")) == {"red car", "sun", "sea"} for text in counts)
        assert all(len(text.split("+")) == 2 for text in drawn(Tags(most=2, joined="+"), tags))
        assert set(drawn(Tags(most=1, template="a picture of {}"), pair("a", "b"))) == {"a picture of a", "a picture of b"}
        with pytest.raises(IndexError, match="no tag"):
            Tags()(pair(" , #"), random.Random(0))

    def test_joined(self) -> None:
        """As many captions as the next number, any of them, in any order, none twice."""
        counts = drawn(Joined(), pair("a", "b", "c"), 3000)
        assert set(counts) == {" ".join(some) for count in (1, 2, 3) for some in permutations("abc", count)}
        for length in (1, 2, 3):
            assert abs(sum(n for text, n in counts.items() if len(text.split()) == length) / 3000 - 1 / 3) < 0.04
        assert {len(text.split("/")) for text in drawn(Joined(2, 3, "/"), pair(*"abcdef"))} == {2, 3}
        assert set(drawn(Joined(least=4), pair("a", "b"))) == {"a b", "b a"} and set(drawn(Joined(), pair("a"))) == {"a"}

    def test_sentences(self) -> None:
        report = pair("Heart size is normal, approx. five cm. No effusion.\nBones are intact! 1. End")
        expected = {"Heart size is normal, approx. five cm.", "No effusion.", "Bones are intact!"}
        assert set(drawn(Sentence(shortest=6), report)) == expected
        assert set(drawn(Sentence(), pair("一只狗在跑步。两只猫在睡觉！"))) == {"一只狗在跑步。", "两只猫在睡觉！"}
        assert set(drawn(Sentence(), pair("x"))) == {"x"}

    def test_sentences_are_equally_likely(self) -> None:
        counts = drawn(Sentence(), pair("This is one. This is two. This is three. This is four."), 2000)
        assert len(counts) == 4 and all(abs(count / 2000 - 0.25) < 0.04 for count in counts.values())

    def test_clean(self) -> None:
        assert Clean()(pair("A &amp;amp; B\t see https://x.y/z?a=b  donâ€™t"), random.Random(0)) == "A & B see don't"
        assert Clean({"name": "tags", "most": 1}, lower=True)(pair("RED"), random.Random(0)) == "red"
        with pytest.raises(IndexError, match="nothing left"):
            Clean()(pair("www.x.y"), random.Random(0))

    @pytest.mark.parametrize("name", ["random", "first", "tags", "joined", "sentence", "clean"])
    def test_a_function_of_the_seed(self, name: str) -> None:
        choice = caption_choices.build(name)
        text = pair("One thing is. Another thing is.", "A third one.")
        assert [choice(text, random.Random(5)) for _ in range(3)] == [choice(text, random.Random(5))] * 3

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="template 'a dog' must hold one {}"):
            Template(["a dog"])
        with pytest.raises(InputError, match="template '' must hold one {}"):
            Template([])
        with pytest.raises(InputError, match="most 0 must be at least 1 tag"):
            Tags(most=0)
        with pytest.raises(InputError, match="template 'x' must hold one {}, where the tags go"):
            Tags(template="x")
        for least, most in ((0, None), (3, 2)):
            with pytest.raises(
                InputError, match=f"least {least} and most {most} must be numbers of captions: 1 <= least <= most"
            ):
                Joined(least, most)
        with pytest.raises(InputError, match="unknown caption choice 'sentense': did you mean 'sentence'"):
            ClipDataModule("synthetic", captions="sentense")


def test_in_a_data_module(tmp_path: Path) -> None:
    table = str(write_folder(tmp_path, count=8))
    module = small_module()
    data = ClipDataModule(table, table, local_batch_size=8, captions=lambda found, rng: "a dog").attach(module)
    dog = module.tokenizer(["a dog"])[0][0, :4].tolist()
    assert next(iter(data.train_dataloader())).tokens[:, :4].tolist() == [dog] * 8
    assert next(iter(data.val_dataloader())).tokens[:, :4].tolist() != [dog] * 8  # evaluation keeps the first caption
