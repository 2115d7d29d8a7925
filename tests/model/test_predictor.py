"""A predictor: what it gives, that it follows its model, and that it leaves no trace in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from lightning_clip import ClipModule
from lightning_clip.core.errors import InputError
from lightning_clip.model.predictor import Predictor
from lightning_clip.objectives import ContrastivePairs
from lightning_clip.variants import geoclip  # noqa: F401  (registers coordinates)
from tests.small import IMAGE, TEXT, small_module

GPS: dict[str, Any] = {"towers": {"gps": "coordinates"}, "objective": {"name": "pairs", "between": ["image", "gps"]}}
GPS_AND_TEXT = {"name": "pairs", "between": ["text", "gps"]}


@pytest.fixture
def module() -> ClipModule:
    torch.manual_seed(0)
    return small_module()


@pytest.fixture
def predictor(module: ClipModule) -> Predictor:
    return module.predictor


class TestImages:
    def test_the_backbone_is_what_the_projection_reads(self, predictor: Predictor) -> None:
        images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
        features, backbone = predictor.encode_image_with_backbone(images, batch_size=2)
        assert backbone.shape == (5, 32)
        torch.testing.assert_close(features, predictor.encode_image(images))
        torch.testing.assert_close(features, normalize(predictor.model.image_projection(backbone), dim=-1))

    def test_other_sizes_go_through_the_transform(self, module: ClipModule) -> None:
        images = torch.randint(256, (1, 3, 50, 70), dtype=torch.uint8)
        black = Predictor(module.predictor.model, module.tokenizer, _Black())
        expected = black.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        torch.testing.assert_close(black.encode_image(images), expected)
        assert not torch.allclose(module.encode_image(images), expected)

    def test_normalised_pixels_are_refused(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="images cannot be read: image has floats outside of 0 to 1: the model normalises"):
            predictor.encode_image_with_backbone(torch.randn(1, 3, 32, 32))

    @pytest.mark.parametrize("images", [[], (), iter(()), torch.zeros(0, 3, 32, 32, dtype=torch.uint8), np.zeros((0, 9, 9, 3))])
    def test_no_images_give_no_rows(self, predictor: Predictor, images: Any) -> None:
        features, backbone = predictor.encode_image_with_backbone(images)
        assert features.shape == (0, 16) and backbone.shape == (0, 32)
        assert predictor.encode_image([]).shape == (0, 16)


class TestTexts:
    @pytest.mark.parametrize("texts", [[], iter(()), np.array([], dtype=str), torch.zeros(0, 8, dtype=torch.int64)])
    def test_no_texts_give_no_rows(self, predictor: Predictor, texts: Any) -> None:
        assert predictor.encode_text(texts).shape == (0, 16)

    def test_settings_build_the_tokenizer_again(self, predictor: Predictor) -> None:
        assert predictor.text_settings() == predictor.tokenizer.to_mapping()


class TestColumns:
    def test_whatever_a_tower_reads(self) -> None:
        places = [(48.9, 2.4), (-33.9, 151.2), (52.5, 13.4)]
        module = ClipModule(IMAGE, "none", embed_dim=16, **GPS)
        found = module.predictor.encode("gps", places, batch_size=2)
        assert found.shape == (3, 16) and not found.requires_grad
        torch.testing.assert_close(found[1:2], module.predictor.encode("gps", places[1:2]))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))

    def test_images_and_texts_are_columns_too(self, predictor: Predictor) -> None:
        images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
        torch.testing.assert_close(predictor.encode("image", images), predictor.encode_image(images))
        torch.testing.assert_close(predictor.encode("text", ["a"]), predictor.encode_text("a"))

    def test_without_images(self) -> None:
        module = ClipModule("none", TEXT, embed_dim=16, towers={"gps": "coordinates"}, objective=GPS_AND_TEXT)
        assert module.predictor.encode_text("a").shape == module.predictor.encode("gps", [(1.0, 2.0)]).shape
        with pytest.raises(InputError, match="no tower reads column 'image'"):
            module.encode_image(Image.new("RGB", (40, 40)))

    def test_mistakes(self) -> None:
        predictor = ClipModule(IMAGE, "none", embed_dim=16, **GPS).predictor
        assert predictor.text_settings() == {}
        for encode in (predictor.encode_text, lambda text: predictor.encode("text", text)):
            with pytest.raises(InputError, match="no tower reads column 'text'"):
                encode("a dog")
        assert predictor.encode("gps", []).shape == (0, 16)
        with pytest.raises(InputError, match="column 'gps': .*different shapes"):
            predictor.encode("gps", [(1.0, 2.0), (1.0, 2.0, 3.0)])


class TestClasses:
    def test_scores_are_scaled_cosines(self, predictor: Predictor) -> None:
        pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
        names, templates = ["cat", "dog", "bird"], ["a {}", "the {}"]
        scores = predictor.scores(pictures, names, templates, batch_size=1)
        cosines = predictor.encode_image(pictures) @ predictor.zero_shot_classifier(names, templates)
        assert scores.shape == (2, 3)
        torch.testing.assert_close(scores, cosines / 0.07)
        torch.testing.assert_close(predictor.scorer(names, templates)(pictures[0]), scores[:1])

    def test_a_scorer_of_the_objective_sees_so_many_images_at_a_time(self, module: ClipModule) -> None:
        seen = []

        class Counting(ContrastivePairs):
            def scorer(self, predictor: Predictor, class_names: Any, templates: Any = "simple") -> Any:
                def score(images: Any) -> torch.Tensor:
                    assert not torch.is_grad_enabled() and not module.model.training
                    seen.append(len(images))
                    return torch.full((len(images), len(class_names)), float(len(seen)))

                return score

        module.model.train()
        predictor = Predictor(module.model, module.tokenizer, module.image_transform(train=False), Counting())
        scores = predictor.scores(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), ["cat", "dog"], batch_size=2)
        assert seen == [2, 2, 1] and scores[:, 0].tolist() == [1, 1, 2, 2, 3] and module.model.training
        predictor.scores([Image.new("RGB", (40, 30))] * 3, ["cat", "dog"], batch_size=2)
        assert seen[3:] == [2, 1]

    def test_an_empty_class_name_is_refused(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="class name 1 is empty: give each class a name"):
            predictor.scorer(["cat", " "])


class TestTheModelStaysAsItIs:
    def test_modes_are_restored_and_no_gradient_is_kept(self) -> None:
        module = small_module(image_encoder={**IMAGE, "drop_path_rate": 0.5}, text_encoder=TEXT)
        model = module.predictor.model
        model.train()
        model.text_encoder.eval()
        image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        first, again = module.encode_image(image), module.encode_image(image)
        torch.testing.assert_close(first, again, rtol=0, atol=0)  # no path was dropped
        assert not first.requires_grad and not module.encode_text("a").requires_grad
        assert model.image_encoder.training and model.training and not model.text_encoder.training

    def test_it_sees_what_was_learned_and_where_the_model_went(self, predictor: Predictor) -> None:
        before = predictor.encode_text("a dog")
        with torch.no_grad():
            for weights in predictor.model.text_projection.parameters():
                weights.neg_()
        torch.testing.assert_close(predictor.encode_text("a dog"), -before)
        predictor.model.to("meta")
        assert predictor.device.type == "meta"

    def test_it_is_no_part_of_the_module(self, module: ClipModule) -> None:
        assert not isinstance(module.predictor, nn.Module)
        assert all(name.startswith("model.") for name, _ in module.named_parameters())


class TestSubclasses:
    def test_an_overridden_transform_is_used(self) -> None:
        class Dark(ClipModule):
            def image_transform(self, train: bool) -> nn.Module:
                return _Black()

        module = Dark(IMAGE, TEXT, embed_dim=16)
        black = module.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        torch.testing.assert_close(module.encode_image(Image.new("RGB", (50, 40), "white")), black)


class _Black(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.new_zeros(*image.shape[:-2], 32, 32)
