"""Attacks, statistics of heads against loops, the search for heads that read, models in which they are silent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders.test_dense import vit
from small import small_module
from torch import Tensor
from weights.families import shaken

from lightning_clip import ClipModule
from lightning_clip.applications.typography import Attack, find_reading_heads, head_statistics, silenced, silenced_model
from lightning_clip.applications.typography.heads import shares_of_boxes
from lightning_clip.core.errors import InputError
from lightning_clip.data.lettering import Box, Lettering
from lightning_clip.encoders.silenced import SilencedHeads
from lightning_clip.loading import open_predictor
from lightning_clip.merging.mixing import write_checkpoint
from lightning_clip.model.predictor import Predictor

VIT = {
    **{"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
    **{"embed_dim": 32, "num_heads": 2},
}
WORDS = ["cat", "dog", "bird"]


@pytest.fixture(scope="module")
def module() -> ClipModule:
    torch.manual_seed(0)
    made = small_module(image_encoder=VIT)
    made.configure_model()
    shaken(made.model.image_encoder)
    return made.eval()


@pytest.fixture(scope="module")
def predictor(module: ClipModule) -> Predictor:
    return module.predictor


def noise(count: int, side: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestAttack:
    def test_another_class_for_each_picture_and_always_the_same(self) -> None:
        attack = Attack(WORDS, seed=3)
        targets = [attack.target_of(place, place % 3) for place in range(60)]
        assert all(target != place % 3 for place, target in enumerate(targets)) and len(set(targets)) == 3
        assert targets == [Attack(WORDS, seed=3).target_of(place, place % 3) for place in range(60)]
        assert targets != [Attack(WORDS, seed=4).target_of(place, place % 3) for place in range(60)]

    def test_one_word_for_all(self) -> None:
        attack = Attack(WORDS, "dog")
        assert attack.target_of(5, 0) == 1 and not attack.attacks(1) and attack.attacks(2)

    def test_pixels_change_inside_of_the_box_alone(self) -> None:
        picture = noise(1)[0]
        for place in ("bottom", "top", "centre", "random"):
            attack = Attack(WORDS, lettering=Lettering(place))
            found, box = attack(picture, 7, 0)
            changed = (found != picture).any(dim=0).nonzero()
            assert changed[:, 0].min() >= box.top and changed[:, 0].max() < box.bottom
            assert changed[:, 1].min() >= box.left and changed[:, 1].max() < box.right
            assert not torch.equal(attack.empty(picture, 7), found)

    def test_true_class_and_target_equal(self) -> None:
        with pytest.raises(
            InputError, match="picture 4 shows 'dog', which is the target of the attack: attack pictures of other"
        ):
            Attack(WORDS, "dog").target_of(4, 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((["cat"],), r"a typographic attack has words \['cat'\]: give at least two classes"),
            ((["cat", "dog", "cat"],), "a typographic attack has the word 'cat' for two classes"),
            ((WORDS, "dgo"), "target 'dgo' is the word of no class: did you mean 'dog'"),
        ],
    )
    def test_words_that_are_wrong(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Attack(*arguments)


def test_statistics_equal_loops() -> None:
    tower = shaken(vit(reg_tokens=1)).double()
    view = tower.dense_view()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    found = head_statistics(view, image)
    assert found.attention.shape == (2, 2, 2, 16) and (found.rows, found.columns) == (4, 4)
    with torch.no_grad():
        x, *_ = view.enter(image)
        for number, block in enumerate(view.blocks):
            q, k, v = view.parts(block).heads(x)
            for picture in range(2):
                for head in range(2):
                    scores = [math.exp(float(q[picture, head, 0] @ other) / 4) for other in k[picture, head]]
                    weights = [score / sum(scores) for score in scores]
                    for place in range(16):
                        assert abs(float(found.attention[number, picture, head, place]) - weights[2 + place]) < 1e-6
                    wanted = sum(weight * value for weight, value in zip(weights, v[picture, head], strict=True))
                    assert (found.written[number, picture, head] - wanted).abs().max() < 1e-6  # type: ignore[operator]
            x = view.run(block, x)


def test_places_that_a_box_covers() -> None:
    boxes = [Box(0, 24, 32, 32), Box(4, 5, 13, 12), Box(0, 0, 4, 3)]
    found = shares_of_boxes(boxes, 32, 4, 4)
    for box, row in zip(boxes, found, strict=True):
        for place in range(16):
            top, left = 8 * (place // 4), 8 * (place % 4)
            inside = [
                box.left <= x < box.right and box.top <= y < box.bottom
                for y in range(top, top + 8)
                for x in range(left, left + 8)
            ]
            assert bool(row[place]) == (sum(inside) >= 16), (box, place)


class TestSearch:
    def test_equals_a_search_by_loops(self, predictor: Predictor) -> None:
        """Scores picture by picture, and each head tried with a model of its own."""
        pictures, labels = noise(24), [place % 3 for place in range(24)]
        attack = Attack(WORDS, lettering=Lettering(share=0.3))
        found = find_reading_heads(predictor, pictures, labels, attack, ["a {}"], tolerance=0.2, patience=3)
        seen = torch.cat(list(predictor.pixels(pictures)))
        pasted = [attack(picture, place, labels[place]) for place, picture in enumerate(seen)]
        on_text, anywhere = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
        view = predictor.model.image_encoder.dense_view()
        for picture, box in pasted:
            (image,) = predictor.model.inputs("image", picture[None])
            attention = head_statistics(view, image).attention[:, 0].double()  # (2, 2, 16)
            text = shares_of_boxes([box], 32, 4, 4)[0]
            on_text += attention[..., text].sum(dim=-1)
            anywhere += attention.sum(dim=-1)
        assert (found.scores - on_text / anywhere).abs().max() < 1e-6
        classifier = predictor.zero_shot_classifier(WORDS, ["a {}"])

        def right(of: Predictor, images: Tensor) -> float:
            answers = (of.encode_image(images) @ classifier).argmax(dim=1)
            return sum(int(answer) == label for answer, label in zip(answers, labels, strict=True)) / len(labels)

        words = torch.stack([picture for picture, _ in pasted])
        base, now, heads, useless, steps = right(predictor, seen), right(predictor, words), [], 0, []
        assert (found.clean, found.attacked) == (base, now)
        for place in sorted(range(4), key=lambda place: -float(found.scores.flatten()[place])):
            tried = [*heads, (place // 2, place % 2)]
            clean, attacked = (right(silenced(predictor, sorted(tried)), images) for images in (seen, words))
            helps = attacked > now and base - clean <= 0.2
            steps.append((*tried[-1], clean, attacked, helps))
            if helps:
                heads, now, useless = tried, attacked, 0
            elif (useless := useless + 1) == 3:
                break
        assert [(step.block, step.head, step.clean, step.attacked, step.silent) for step in found.steps] == steps
        assert found.heads == sorted(heads) and found.written.shape == (len(heads), 16)

    def test_what_heads_write_on_average(self, predictor: Predictor) -> None:
        options: dict[str, Any] = {"tolerance": 1.0, "ablation": "mean"}
        found = find_reading_heads(predictor, noise(24), [place % 3 for place in range(24)], Attack(WORDS), "simple", **options)
        assert found.heads
        (image,) = predictor.model.inputs("image", torch.cat(list(predictor.pixels(noise(24)))))
        means = head_statistics(predictor.model.image_encoder.dense_view(), image).written.mean(dim=1)
        for pair, value in zip(found.heads, found.written, strict=True):
            assert (means[pair] - value).abs().max() < 1e-5

    def test_pictures_of_the_target_are_passed_over(self, predictor: Predictor) -> None:
        found = find_reading_heads(predictor, noise(6), [1, 1, 0, 1, 2, 1], Attack(WORDS, "dog"), patience=1)
        assert {step.clean for step in found.steps} <= {0.0, 0.5, 1.0}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"labels": [0]}, "there are 3 images and 1 labels"),
            ({"labels": [1, 1, 1], "attack": Attack(WORDS, "dog")}, "all images show 'dog', which is the target of the attack"),
            ({"tolerance": 2.0}, "tolerance 2.0"),
            ({"patience": 0}, "patience 0"),
            ({"ablation": "half"}, "ablation 'half' is unknown"),
        ],
    )
    def test_arguments_that_are_wrong(self, predictor: Predictor, options: dict[str, Any], message: str) -> None:
        given = {"images": noise(3), "labels": [0, 1, 2], "attack": Attack(WORDS), **options}
        with pytest.raises(InputError, match=message):
            find_reading_heads(predictor, **given)

    def test_a_tower_without_heads(self) -> None:
        small = {"name": "resnet10t", "image_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
        of_resnet = small_module(image_encoder=small).eval().predictor
        with pytest.raises(InputError, match="image tower resnet10t has no attention heads that are known"):
            find_reading_heads(of_resnet, noise(3), [0, 1, 2], Attack(WORDS))


class TestSilence:
    def test_shares_weights_and_leaves_the_model_as_it_is(self, predictor: Predictor) -> None:
        before, tower = predictor.encode_image(noise(2)), predictor.model.image_encoder
        silent = silenced(predictor, [(1, 1)], torch.full((1, 16), 0.5))
        assert silent.model.image_encoder.tower is tower and predictor.model.image_encoder is tower
        assert not torch.allclose(silent.encode_image(noise(2)), before, atol=1e-3)
        assert torch.equal(predictor.encode_image(noise(2)), before)
        assert torch.equal(silent.encode_text(["a cat"]), predictor.encode_text(["a cat"]))

    def test_heads_that_are_silent_already_stay_so(self, predictor: Predictor) -> None:
        constants = torch.arange(32.0).view(2, 16)
        once = silenced(silenced(predictor, [(1, 1)], constants[:1]), [(0, 0)], constants[1:])
        both = silenced(predictor, [(0, 0), (1, 1)], constants.flip(0))
        assert once.model.image_encoder.heads == [(0, 0), (1, 1)]
        assert isinstance(once.model.image_encoder, SilencedHeads) and once.model.image_encoder.tower.output_dim == 32
        assert torch.equal(once.encode_image(noise(2)), both.encode_image(noise(2)))

    def test_is_written_and_opened_as_other_weights(self, module: ClipModule, tmp_path: Path) -> None:
        silent = silenced_model(module, [(0, 1), (1, 0)], torch.full((2, 16), 0.25))
        again = ClipModule(**silent.to_mapping())
        again.configure_model()
        again.load_state_dict(silent.state_dict())
        write_checkpoint(again, tmp_path / "silent.ckpt")
        opened = open_predictor(tmp_path / "silent.ckpt")
        assert opened.model.image_encoder.heads == [(0, 1), (1, 0)]
        assert torch.equal(opened.encode_image(noise(3)), silent.predictor.encode_image(noise(3)))
        trainable = ClipModule.load_from_checkpoint(tmp_path / "silent.ckpt")
        assert torch.equal(trainable.predictor.encode_image(noise(3)), opened.encode_image(noise(3)))
