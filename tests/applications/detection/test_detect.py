"""`detect`: boxes in the picture's own pixels, names, scores, overlaps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import IMAGE, small_module
from torch import Tensor
from torchvision.ops import box_iou

from lightning_clip import InputError
from lightning_clip.applications.detection import Detections, Detector, detect
from lightning_clip.model.predictor import Predictor

NAMES = ["a red circle", ["a blue square", "a blue box"], "grass"]
VIT = {**IMAGE, "patch_size": 8}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    module = small_module(image_encoder=VIT, objective="detection", transform={"resize": "squash"})
    head: Any = module.model.detector
    for layer in (head.box[-1], head.shift, head.scale, head.embedding):  # which begin at zero
        torch.nn.init.normal_(layer.weight, std=0.1)
    torch.nn.init.constant_(head.box[-1].bias[2:], 2.0)  # boxes so large that they meet
    return module.eval().predictor


def picture(height: int = 48, width: int = 80, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_places_are_those_of_the_head_in_pixels_of_the_picture(predictor: Predictor) -> None:
    image = picture()
    boxes, logits = Detector(predictor, NAMES).places(image)
    model: Any = predictor.model
    with torch.no_grad():
        found = model.detector(model.encode_with_tokens("image", predictor.transform(image)[None])[1])
        texts = predictor.zero_shot_classifier(NAMES).T
        own = found.embeddings[0] / found.embeddings[0].norm(dim=-1, keepdim=True)
        expected = (own @ texts.T + found.shift[0]) * found.scale[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    x, y, width, height = found.boxes[0].unbind(dim=1)
    corners = torch.stack([80 * (x - width / 2), 48 * (y - height / 2), 80 * (x + width / 2), 48 * (y + height / 2)], dim=1)
    torch.testing.assert_close(boxes, corners.clamp(min=0).minimum(torch.tensor([80.0, 48.0, 80.0, 48.0])))


def test_the_best_name_of_each_place_and_every_name(predictor: Predictor) -> None:
    image = picture()
    detector = Detector(predictor, NAMES, threshold=0, overlap=1)
    boxes, logits = detector.places(image)
    found = detector(image)
    scores, labels = logits.sigmoid().max(dim=1)
    order = scores.argsort(descending=True, stable=True)
    assert torch.equal(found.labels, labels[order]) and torch.equal(found.boxes, boxes[order])
    torch.testing.assert_close(found.scores, scores[order])
    every = Detector(predictor, NAMES, threshold=0, overlap=1, every_name=True)(image)
    assert len(every) == 16 * 3 and torch.equal(every.scores, logits.sigmoid().flatten().sort(descending=True).values)
    middle = float(found.scores[5])
    sure = detect(predictor, image, NAMES, threshold=middle, overlap=1, limit=4)
    assert len(sure) == 4 and len(detect(predictor, image, NAMES, threshold=middle, overlap=1)) == 6
    assert sure.to_mappings()[0]["name"] in {"a red circle", "a blue square", "grass"}


def test_of_boxes_that_overlap_the_surest_stays(predictor: Predictor) -> None:
    found = detect(predictor, picture(), ["grass", "sky"], threshold=0, overlap=0.3)
    every = detect(predictor, picture(), ["grass", "sky"], threshold=0, overlap=1)
    assert 0 < len(found) < len(every)
    for label in (0, 1):
        own = found.boxes[found.labels == label]
        shared = box_iou(own, own).fill_diagonal_(0)
        assert not own.numel() or float(shared.max()) <= 0.3


def test_pictures_of_any_kind_and_size(predictor: Predictor) -> None:
    image = picture(32, 32)
    whole = detect(predictor, image, ["grass"], threshold=0)
    again = detect(predictor, image.permute(1, 2, 0).numpy(), ["grass"], threshold=0)
    assert torch.equal(whole.boxes, again.boxes)
    flat = detect(predictor, picture(5, 300), ["grass"], threshold=0)
    assert float(flat.boxes[:, 3].max()) <= 5 and float(flat.boxes[:, 2].max()) <= 300


def test_a_transform_that_cuts_still_shows_the_whole_picture() -> None:
    torch.manual_seed(0)
    cutting = small_module(image_encoder=VIT, objective="detection").eval().predictor
    torch.manual_seed(0)
    squashing = small_module(image_encoder=VIT, objective="detection", transform={"resize": "squash"}).eval().predictor
    one, two = (Detector(each, ["grass"]).places(picture()) for each in (cutting, squashing))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_nothing_is_found() -> None:
    none = Detections(("a",), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert len(none) == 0 and none.to_mappings() == []


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, r"class_names is empty"),
        (["cat", "cat"], {}, r"names has 'cat' twice: give each thing once"),
        (["cat", ""], {}, r"class name 1 is empty"),
        (["cat"], {"threshold": 1.5}, r"threshold 1.5 must be"),
        (["cat"], {"overlap": -1}, r"overlap -1 must be"),
        (["cat"], {"limit": 0}, r"limit 0 must be"),
    ],
)
def test_wrong_settings(names: list[str], options: dict[str, Any], message: str, predictor: Predictor) -> None:
    with pytest.raises(InputError, match=message):
        Detector(predictor, names, **options)


def test_what_cannot_be_detected_in(predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"detect reads one picture, got 2"):
        detect(predictor, [picture(), picture()], ["cat"])
    with pytest.raises(InputError, match=r"the model has no detection head: train it with objective: detection .*owlvit"):
        detect(small_module().predictor, picture(), ["cat"])
