"""Boxes: of rendered scenes, through image transforms, in batches, in COCO's files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small import small_module
from torch import Tensor

from lightning_clip import ClipDataModule, InputError
from lightning_clip.data import SyntheticObjects, pair_sources
from lightning_clip.data.boxed_images import Placement, placed, transform_with_boxes, whole_picture
from lightning_clip.data.boxes import Boxes, boxed, collate_boxes
from lightning_clip.data.sources import CocoBoxes, Subset
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform, training_transform


def test_boxes_of_scenes_surround_their_masks() -> None:
    scenes = SyntheticObjects("test", size=20, objects=3, image_size=60, boxes=True)
    for place in range(len(scenes)):
        boxes, mask = scenes.boxes(place), scenes.mask(place)
        assert boxes.labels.tolist() == scenes.labels(place)
        torch.testing.assert_close(scenes[place].columns["boxes"].corners, boxes.corners)
        for label, corners in zip(boxes.labels.tolist(), (60 * boxes.corners).tolist(), strict=True):
            rows, columns = (mask == label).nonzero().unbind(1)
            seen = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            assert all(abs(one - two) <= 3 for one, two in zip(corners, seen, strict=True))  # a thin tip may fill no pixel
    plain = SyntheticObjects("test", size=20, objects=3, image_size=60)
    assert torch.equal(plain[3].image, scenes[3].image) and plain[3].columns == {}  # type: ignore[arg-type]
    groups = scenes.class_groups()
    assert len(groups["seen"]) == 56 and len(groups["held_out"]) == 8
    assert boxed(Subset(scenes, [1])) is scenes and boxed(pair_sources.build({"name": "synthetic"})) is None


def white(height: int, width: int, box: tuple[int, int, int, int]) -> Tensor:
    """A black picture with one white box."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[:, box[1] : box[3], box[0] : box[2]] = 255
    return picture


TRANSFORMS: dict[str, Any] = {
    "crop": {"resize": "crop"},
    "floor_crop": {"resize": "floor_crop"},
    "squash": {"resize": "squash"},
    "pad": {"resize": "pad", "fill": 0},
    "pad_end": {"resize": "pad_end", "fill": 0},
    "training": {"crop_scale": [0.5, 1.0], "flip": 0.5, "colour_jitter": [0.1, 0.1, 0.1, 0.0]},
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("height", "width"), [(90, 60), (57, 200), (64, 64), (10, 300)])
def test_boxes_go_where_the_pixels_go(name: str, height: int, width: int) -> None:
    """A white box is drawn, transformed and looked for; the picture is the one that the transform alone makes."""
    settings = ImageTransformSettings.of({**TRANSFORMS[name], "interpolation": "bilinear"})
    transform = (training_transform if name == "training" else evaluation_transform)(64, settings)
    box = (int(0.42 * width), int(0.3 * height), int(0.6 * width), max(int(0.3 * height) + 2, int(0.8 * height)))
    given = Boxes.of([[box[0] / width, box[1] / height, box[2] / width, box[3] / height]], [2])
    picture = white(height, width, box)
    for seed in range(5):
        torch.manual_seed(seed)
        expected = transform(picture)
        torch.manual_seed(seed)
        found, boxes = transform_with_boxes(transform, picture, given)
        assert torch.equal(found, expected)
        rows, columns = (found[0] > 100).nonzero().unbind(1)
        if len(boxes.labels):
            seen = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            assert all(abs(one - two) <= 1.6 for one, two in zip((64 * boxes.corners[0]).tolist(), seen, strict=True))


def test_a_placement_and_its_inverse() -> None:
    placement = Placement().then((-1, 1), (50, 0)).then((2, 0.5), (3, -4))
    corners = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    assert placement.corners(corners).tolist() == [[43.0, 6.0, 83.0, 16.0]]
    torch.testing.assert_close(placement.inverse().corners(placement.corners(corners)), corners)


def test_what_is_cut_away_is_dropped_and_what_is_cut_is_cut() -> None:
    transform = evaluation_transform(40, ImageTransformSettings())  # the middle 40 of 80 columns
    given = Boxes.of([[0, 0, 0.2, 1], [0.2, 0.1, 0.5, 0.9], [0, 0, 0.29, 1]], [0, 1, 2], [False, True, False])
    _, boxes = transform_with_boxes(transform, torch.zeros(3, 40, 80, dtype=torch.uint8), given)
    assert boxes.labels.tolist() == [1] and boxes.crowd.tolist() == [True]
    torch.testing.assert_close(boxes.corners, torch.tensor([[0.0, 0.1, 0.5, 0.9]]))


def test_a_whole_picture_is_shown() -> None:
    pixels, placement = placed(
        whole_picture(evaluation_transform(32, ImageTransformSettings()), 32), white(40, 90, (0, 0, 9, 9))
    )
    assert pixels.shape == (3, 32, 32) and placement == Placement((32 / 90, 32 / 40))
    squash = evaluation_transform(32, ImageTransformSettings(resize="squash"))
    assert whole_picture(squash, 32) is squash


def test_batches() -> None:
    many = Boxes.of([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 0.5]], [3, 1, 2], [False, True, False])
    found = collate_boxes([many, Boxes.of([], []), Boxes.of([[0, 0, 1, 1]], [0])])
    assert found["labels"].tolist() == [[3, 2], [-1, -1], [0, -1]] and found["boxes"].shape == (3, 2, 4)
    assert collate_boxes([Boxes.of([], [])])["labels"].shape == (1, 0)
    module = small_module(objective="detection")
    source = SyntheticObjects(size=8, image_size=40, boxes=True)
    batch = next(iter(ClipDataModule(train=source, local_batch_size=4).attach(module).train_dataloader()))
    assert batch.image.shape == (4, 3, 32, 32)
    assert batch.columns["boxes"]["boxes"].shape == (4, 2, 4) and int(batch.columns["boxes"]["labels"].min()) >= 0


CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": 40, "height": 20},
        {"id": 3, "file_name": "a.png", "width": 10, "height": 10},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "fire_hydrant"}],
    "annotations": [
        {"image_id": 7, "category_id": 5, "bbox": [10, 5, 20, 10]},
        {"image_id": 7, "category_id": 2, "bbox": [30, 10, 20, 20], "iscrowd": 1},
        {"image_id": 7, "category_id": 2, "bbox": [50, 10, 20, 20]},
    ],
}


def coco(folder: Path, **changes: Any) -> Path:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "val2017").mkdir(exist_ok=True)
    for image in CONTENT["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / "val2017" / image["file_name"])
    (folder / "annotations/instances_val2017.json").write_text(json.dumps({**CONTENT, **changes}))
    return folder


def test_cocos_files(tmp_path: Path) -> None:
    """Pictures by their ids, classes by theirs; what reaches out is cut, what is outside is dropped and counted."""
    source = pair_sources.build({"name": "coco", "path": str(coco(tmp_path))})
    assert isinstance(source, CocoBoxes) and source.class_names == ["fire hydrant", "dog"] and source.dropped == 1
    assert [source[place].key for place in range(2)] == ["a", "b"] and len(source.boxes(0)) == 0
    boxes = source[1].columns["boxes"]
    assert boxes.labels.tolist() == [1, 0] and boxes.crowd.tolist() == [False, True]
    torch.testing.assert_close(boxes.corners, torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.75, 0.5, 1.0, 1.0]]))
    named = CocoBoxes(str(tmp_path), annotations="annotations/instances_val2017.json", pictures="val2017")
    assert named.place(1).endswith("b.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, r"have no list 'images': COCO's file has images, annotations and categories"),
        ({"categories": []}, r"category_id 5, which is not among its categories"),
        ({"images": [CONTENT["images"][1]]}, r"image_id 7, which is not among its images"),
        ({"annotations": [{"image_id": 7, "category_id": 5}]}, r"has no 'bbox'"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 2, 3]}]}, r"it must be \[left, top, width, height\]"),
        ({"images": [{**CONTENT["images"][0], "width": 0}]}, r"has size 0 x 20: give its width and height"),
        ({"images": [{**CONTENT["images"][0], "file_name": "lost.png"}]}, r"lost.png' is named in .* and is not there"),
    ],
)
def test_broken_files_of_coco(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        CocoBoxes(str(coco(tmp_path, **changes)))


def test_missing_files_of_coco(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"coco path .* does not exist"):
        CocoBoxes(str(tmp_path / "lost"))
    with pytest.raises(InputError, match=r"has none of annotations/instances_train2017.json, .*: give annotations"):
        CocoBoxes(str(coco(tmp_path)), split="train")
    (tmp_path / "annotations/instances_val2017.json").write_text("{")
    with pytest.raises(InputError, match=r"annotations .* cannot be read"):
        CocoBoxes(str(tmp_path))


@pytest.mark.parametrize(
    ("corners", "labels", "message"),
    [
        ([[0, 0, 1.2, 1]], [0], r"box 0 of a picture reaches out of the picture: \[0, 0, 1.2, 1\]; give left, top"),
        ([[0, 0, 1, 1], [0.5, 0.2, 0.5, 0.8]], [0, 1], r"box 1 of a picture is empty"),
        ([[0, 0, float("nan"), 1]], [0], r"reaches out of the picture"),
        ([[0, 0, 1, 1]], [0, 1], r"has 1 boxes, 2 labels and 2 crowd flags"),
        ([[0, 0, 1, 1]], [-1], r"label -1: labels are places in class_names, from 0"),
    ],
)
def test_wrong_boxes(corners: list[list[float]], labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Boxes.of(corners, labels)


def test_boxes_that_cannot_follow() -> None:
    picture, boxes = torch.zeros(3, 40, 40, dtype=torch.uint8), Boxes.of([[0, 0, 1, 1]], [0])
    augmented = training_transform(32, ImageTransformSettings(rand_augment=(1, 5)))
    with pytest.raises(InputError, match=r"step RandAugment moves things where boxes cannot follow: omit rand_augment"):
        transform_with_boxes(augmented, picture, boxes)
    with pytest.raises(InputError, match=r"Views does not say where it puts a box: .* with views 1"):
        transform_with_boxes(training_transform(32, ImageTransformSettings(views=2)), picture, boxes)
    with pytest.raises(InputError, match=r"boxes of type list are no boxes"):
        collate_boxes([[1, 2]])  # type: ignore[list-item]


def test_data_without_boxes() -> None:
    module = small_module(objective="detection")
    data = ClipDataModule(train=SyntheticObjects(size=8, image_size=32), local_batch_size=4).attach(module)
    with pytest.raises(InputError, match=r"no source has a column 'boxes', which the objective learns from .*boxes: true"):
        data.train_dataloader()
