"""Settings of `adapt`: what a mapping says, and one clear error for each thing that it cannot say."""

from __future__ import annotations

from typing import Any

import pytest
from small import small_module

from lightning_clip import InputError
from lightning_clip.adapt import AdaptSettings


def test_a_mapping_comes_back() -> None:
    given = {
        "image": {"lock": True, "unlock_last": 2, "lr": 1e-5, "weight_decay": 0.05, "layer_decay": 0.75},
        "text": {"lora": {"rank": 4, "alpha": 8, "targets": ["qkv"]}, "context_length": 90},
        "stages": [{"until_step": 10, "image": {"lock": True}}],
    }
    settings = AdaptSettings.of(given)
    again = settings.to_mapping()
    assert AdaptSettings.of(again) == settings and again is not None and again["stages"][0]["until_step"] == 10
    assert again["text"]["lora"]["targets"] == ["qkv"]


def test_nothing_is_an_ordinary_training() -> None:
    assert AdaptSettings.of(None).ordinary and AdaptSettings.of({"image": {}}).to_mapping() is None


def test_one_word_is_a_list_of_one() -> None:
    settings = AdaptSettings.of({"text": {"new_tokens": "cat"}, "image": {"lora": {"targets": "qkv"}}})
    assert settings.text.new_tokens == ("cat",) and settings.image.lora is not None and settings.image.lora.targets == ("qkv",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"imag": {}}, r"adapt has no setting 'imag': did you mean 'image'\? Known: image, others, stages, store, text"),
        ({"image": {"locked": True}}, r"adapt.image has no setting 'locked': did you mean 'lock'"),
        ({"text": {"lora": {"r": 8}}}, r"adapt.text.lora has no setting 'r': .*Known: alpha, dropout, rank, targets"),
        ({"stages": [{"until": 5}]}, r"adapt.stages\[0\] has no setting 'until'"),
        ({"stages": [{"until_step": 5, "image": {"lr": 1.0}}]}, r"adapt.stages\[0\].image has no setting 'lr'"),
        ({"stages": {"until_step": 5}}, "must be a list of stages"),
        ({"image": "lock"}, "adapt.image 'lock' must be a mapping"),
        ({"image": {"lock": "yes"}}, "adapt.image.lock 'yes' must be true or false"),
        ({"image": {"lr": 0}}, "adapt.image.lr 0 must be a number > 0"),
        ({"image": {"lr": "1e-5"}}, "adapt.image.lr '1e-5' must be a number"),
        ({"image": {"weight_decay": -0.1}}, "adapt.image.weight_decay -0.1 must be a number >= 0"),
        ({"text": {"layer_decay": 1.5}}, "adapt.text.layer_decay 1.5 must be a number > 0 and <= 1"),
        ({"text": {"lora": {"rank": 0}}}, "adapt.text.lora.rank 0 must be a whole number >= 1"),
        ({"text": {"lora": {"dropout": 1.0}}}, "adapt.text.lora.dropout 1.0 must be a number >= 0 and < 1"),
        ({"text": {"lora": {"targets": []}}}, "must be a list of names of layers"),
        ({"text": {"lora": {"targets": [1]}}}, r"adapt.text.lora.targets \(1,\) must be a list of names of layers"),
        ({"text": {"lock": True, "lora": {}}}, "adapt.text has both lock and lora"),
        ({"image": {"unlock_last": 2}}, "unlock_last 2 opens a locked tower, and this one is not: set lock: true"),
        ({"image": {"unlock_last": -1, "lock": True}}, "unlock_last -1 must be a whole number >= 0"),
        ({"image": {"cache": "f"}}, "adapt.image.cache 'f' keeps features of a tower that never changes"),
        ({"image": {"lock": True, "cache": True}}, "adapt.image.cache True must be text or null"),
        ({"image": {"lock": True, "cache": ""}}, "adapt.image.cache '' must be a folder"),
        ({"text": {"cache": "f"}}, "adapt.text has no setting 'cache'"),
        ({"text": {"new_tokens": ["a", "a"]}}, "names a token twice"),
        ({"text": {"new_tokens": [5]}}, r"adapt.text.new_tokens \(5,\) must be a list of words"),
        ({"text": {"new_tokens": [" "]}}, "give words that are not empty"),
        ({"text": {"context_length": 0}}, "adapt.text.context_length 0 must be a whole number >= 1"),
        ({"stages": [{"image": {"lock": True}}]}, r"adapt.stages\[0\] must say either until_step or until_epoch"),
        ({"stages": [{"until_step": 0}]}, r"adapt.stages\[0\].until 0 must be a whole number >= 1"),
        ({"stages": [{"until_step": 9}, {"until_step": 5}]}, r"adapt.stages end at \[9, 5\]: until_step must rise"),
        ({"stages": [{"until_step": 9}, {"until_epoch": 5}]}, "either all in steps .* or all in epochs"),
        (
            {"image": {"lock": True, "cache": "f"}, "stages": [{"until_step": 9, "image": {"lock": True}}]},
            "take image out of adapt.stages",
        ),
        ({"store": "some"}, "unknown adapt.store 'some': .*Known: auto, full, trained"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_module(adapt=given)
