"""`dense_features` and `segment`: windows, contrast, thresholds, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_module
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from lightning_clip import ClipModel
from lightning_clip.applications.segmentation import NOTHING, Segmenter, dense_features, segment, window_starts
from lightning_clip.applications.segmentation.segment import contrasted
from lightning_clip.applications.segmentation.windows import fitted, windows
from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import tokenizers
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform
from lightning_clip.encoders import ImageEncoder
from lightning_clip.encoders.dense_maps import MapView
from lightning_clip.model.predictor import Predictor

NAMES = ["a red circle", "a blue square", "grass"]
TEXT = {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    module = small_module(image_encoder={"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2})
    return module.eval().predictor


def picture(height: int = 48, width: int = 80, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Colours(ImageEncoder):
    """Features of a place are the colours of its own square of 4 x 4 pixels, so that every answer is known."""

    def __init__(self, image_size: int = 32) -> None:
        super().__init__(output_dim=3, image_size=image_size)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3)) * self.scale

    def dense_view(self) -> MapView:
        return MapView(lambda image: nn.functional.avg_pool2d(image, 4) * self.scale, lambda found: found.mean(dim=(2, 3)))


def of_colours(image_size: int = 32) -> Predictor:
    """A predictor whose texts are colours: the text features of "red", "green" and "blue" are set by hand."""
    model = ClipModel(
        Colours(image_size), TEXT, embed_dim=3, projection={"image": "none", "text": "linear"}, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Predictor(model, tokenizers.build("clip"), evaluation_transform(image_size, ImageTransformSettings()))


def colour_segmenter(**options: Any) -> Segmenter:
    found = Segmenter(of_colours(), ["red", "green", "blue"], **options)
    found.classifier = normalize(2 * torch.eye(3) - 1, dim=0)  # as pixels are normalised: from -1 to 1
    return found


def test_dense_features_are_those_of_the_model(predictor: Predictor) -> None:
    """The class token's is the picture's own feature, all are of unit length, and a batch is its pictures one by one."""
    images = [picture(), picture(64, 64, seed=1), picture(30, 90, seed=2)]
    found = dense_features(predictor, images, "plain", batch_size=2)
    assert found.prefix.shape == (3, 1, 16) and found.grid.shape == (3, 4, 4, 16)
    torch.testing.assert_close(found.prefix[:, 0], predictor.encode_image(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.grid.norm(dim=-1), torch.ones(3, 4, 4))
    for method in ("plain", "maskclip", "sclip", "clearclip", "naclip", None):
        alone = dense_features(predictor, images[1], method).grid[0]
        torch.testing.assert_close(dense_features(predictor, images, method).grid[1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense_features(predictor, images).grid, dense_features(predictor, images, "naclip").grid)


def test_windows_cover_every_pixel() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        size = int(generator.integers(1, 20))
        height, width = (size + int(extra) for extra in generator.integers(0, 50, 2))
        stride = int(generator.integers(1, size + 1))
        seen = np.zeros((height, width), int)
        for top, left in windows(height, width, size, stride):
            assert top + size <= height and left + size <= width
            seen[top : top + size, left : left + size] += 1
        assert seen.min() >= 1
        starts = window_starts(height, size, stride)
        assert starts[0] == 0 and starts[-1] == height - size and len(set(starts)) == len(starts)
    assert window_starts(32, 32, 16) == [0]


def test_a_picture_is_brought_to_the_shorter_side() -> None:
    assert fitted(picture(48, 80), 32).shape == (3, 32, 53)
    assert fitted(picture(500, 20), 32).shape == (3, 800, 32)
    same = picture(32, 70)
    assert fitted(same, 32) is same


def test_scores_equal_a_loop_over_windows_and_pixels(predictor: Predictor) -> None:
    """Features of each window by itself, brought to pixels, averaged where windows meet, contrasted: in float64 loops."""
    image = picture(32, 50)
    segmenter = Segmenter(predictor, NAMES, "clearclip", overlap=0.25)
    texts = predictor.zero_shot_classifier(NAMES).double()
    total, seen = torch.zeros(3, 32, 50).double(), torch.zeros(50)
    for left in (0, 18):
        part = image[:, :, left : left + 32]
        grid = dense_features(predictor, part, "clearclip").grid[0].double()  # (4, 4, D)
        small = torch.zeros(1, 3, 4, 4).double()
        for name in range(3):
            for row in range(4):
                for column in range(4):
                    small[0, name, row, column] = sum(grid[row, column, d] * texts[d, name] for d in range(16))
        total[:, :, left : left + 32] += interpolate(small, (32, 32), mode="bilinear", align_corners=False)[0]
        seen[left : left + 32] += 1
    mean = total / seen
    expected = torch.stack([mean[c] - (mean.sum(dim=0) - mean[c]) / 2 for c in range(3)])
    found = segmenter(image)
    torch.testing.assert_close(found.scores.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, found.scores.argmax(dim=0))
    assert math.isclose(sum(found.share(c) for c in range(3)), 1.0)


def test_places_are_named_by_what_is_there() -> None:
    """Halves of a picture in two colours, larger than the model's square and not of its shape."""
    image = torch.zeros(3, 64, 120, dtype=torch.uint8)
    image[0, :, :60], image[2, :, 60:] = 255, 255
    for options in ({}, {"overlap": 0.0}, {"resolution": 64}):
        found = colour_segmenter(**options)(image)
        assert found.labels.shape == (64, 120) and found.names == ("red", "green", "blue")
        assert (found.labels[:, :50] == 0).all() and (found.labels[:, 70:] == 2).all()
        assert found.share(1) == 0


def test_mirrored_pictures_have_mirrored_labels() -> None:
    image = picture(32, 64, seed=3)  # windows begin at 0, 16 and 32
    segmenter = colour_segmenter()
    scores = segmenter.scores(image.flip(-1))
    torch.testing.assert_close(scores.flip(-1), segmenter.scores(image), rtol=1e-4, atol=1e-5)


def test_names_in_another_order_have_the_same_places(predictor: Predictor) -> None:
    image = picture()
    one, other = segment(predictor, image, NAMES), segment(predictor, image, NAMES[::-1])
    torch.testing.assert_close(one.scores, other.scores.flip(0), rtol=1e-4, atol=1e-6)
    assert torch.equal(segment(predictor, Image.fromarray(image.permute(1, 2, 0).numpy()), NAMES).labels, one.labels)


def test_contrast_leaves_the_order_and_takes_out_what_is_common() -> None:
    scores = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    common = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(contrasted(scores + common), contrasted(scores))
    assert torch.equal(contrasted(scores).argmax(dim=0), scores.argmax(dim=0))
    assert contrasted(scores).sum(dim=0).abs().max() < 1e-12


def test_what_is_like_no_name_is_nothing(predictor: Predictor) -> None:
    image = picture()
    everything = Segmenter(predictor, NAMES)(image)
    scale = float(predictor.scale())
    large = interpolate(everything.scores[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    best = (scale * large).softmax(dim=0).amax(dim=0)
    limit = float(best.median())
    found = Segmenter(predictor, NAMES, threshold=limit)(image).labels
    assert torch.equal(found == NOTHING, best < limit) or ((found == NOTHING) != (best < limit)).float().mean() < 1e-3
    kept = found != NOTHING
    assert 0 < kept.sum() < found.numel() and torch.equal(found[kept], everything.labels[kept])


class NoPlaces(ImageEncoder):
    def __init__(self) -> None:
        super().__init__(output_dim=3, image_size=32)
        self.layer = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.mean(dim=(2, 3)))


def test_errors(predictor: Predictor) -> None:
    image = picture()
    blind = Predictor(
        ClipModel(NoPlaces(), TEXT, embed_dim=3), predictor.tokenizer, evaluation_transform(32, ImageTransformSettings())
    )
    with pytest.raises(InputError, match="NoPlaces has no features of places: take a ViT or a ResNet"):
        segment(blind, image, NAMES)
    with pytest.raises(InputError, match=r"names \['cat'\] has 1 name: give at least two"):
        segment(predictor, image, ["cat"])
    with pytest.raises(InputError, match="names 'a cat, a dog' is one text: give a list"):
        segment(predictor, image, "a cat, a dog")
    with pytest.raises(InputError, match="names has 'cat' twice"):
        segment(predictor, image, ["cat", "dog", "cat"])
    with pytest.raises(InputError, match="names has 256 entries: at most 255"):
        segment(predictor, image, [str(number) for number in range(256)])
    with pytest.raises(InputError, match="segment reads one picture, got 2"):
        segment(predictor, [image, image], NAMES)
    with pytest.raises(InputError, match="images are empty"):
        dense_features(predictor, [])
    with pytest.raises(InputError, match="unknown dense method 'mask'"):
        segment(predictor, image, NAMES, "mask")
    for wrong in ({"resolution": 31}, {"overlap": 1.0}, {"threshold": 2}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} .* must be"):
            Segmenter(predictor, NAMES, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stride 9 must be a whole number >= 1 and <= 8"):
        window_starts(20, 8, 9)
