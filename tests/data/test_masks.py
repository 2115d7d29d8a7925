"""Pictures with masks: rendered objects, and the folders of VOC, Context, ADE20K and COCO-Stuff in small."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_clip.core.errors import InputError
from lightning_clip.data import SyntheticObjects, pair_sources
from lightning_clip.data.drawing import COLOURS, PLACES, SHAPES, Group, render, render_with_mask
from lightning_clip.data.masks import BACKGROUND, UNLABELLED
from lightning_clip.data.sources.masked_folders import MaskedFolders
from lightning_clip.data.synthetic import held_out_combinations


def write(folder: Path, name: str, numbers: np.ndarray, picture: str = ".jpg") -> None:
    """A mask, and a picture of its size whose name the folder of pictures has."""
    folder.mkdir(parents=True, exist_ok=True)
    if picture:
        height, width = numbers.shape
        Image.new("RGB", (width, height), (200, 40, 40)).save(folder / f"{name}{picture}")
    else:
        Image.fromarray(numbers.astype(np.uint8)).save(folder / f"{name}.png")


def numbers(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)


def voc(root: Path, masks: str = "SegmentationClass", lists: str = "Segmentation") -> Path:
    for name, mask in {"a": numbers([0, 1], [20, 255]), "b": numbers([7, 7, 0])}.items():
        write(root / "JPEGImages", name, mask)
        write(root / masks, name, mask, "")
    write(root / "JPEGImages", "other", numbers([0]))
    (root / f"ImageSets/{lists}").mkdir(parents=True)
    (root / f"ImageSets/{lists}/val.txt").write_text("a\nb\n")
    return root


class TestObjects:
    def test_masks_are_where_colours_are(self) -> None:
        """Each object's pixels have its colour, and no other pixel does; edges are mixed and belong to neither for sure."""
        scenes = SyntheticObjects("test", size=40, objects=3, image_size=96)
        for index in range(20):
            pixels, mask = scenes[index].image.float(), scenes.mask(index)
            assert sorted(mask.unique().tolist()) == [BACKGROUND, *sorted(scenes.labels(index))]
            colours = {label: scenes.class_names[label].split()[0] for label in scenes.labels(index)}
            for label, colour in colours.items():
                wanted = torch.tensor(COLOURS[colour]).float()
                near = (pixels - wanted[:, None, None]).abs().amax(dim=0) < 14  # (3, S, S) -> (S, S)
                inside = mask == label
                assert (near & inside).sum() > 0.6 * inside.sum()
                others = {COLOURS[other] for other in colours.values()} - {COLOURS[colour]}
                apart = all(max(abs(a - b) for a, b in zip(other, COLOURS[colour], strict=True)) > 40 for other in others)
                assert not apart or (near & ~inside).sum() <= 0.1 * inside.sum()

    def test_a_scene_is_a_function_of_its_number(self) -> None:
        one, other = SyntheticObjects(size=20), SyntheticObjects(size=30)
        assert all(torch.equal(one[i].image, other[i].image) and one[i].captions == other[i].captions for i in range(20))
        assert torch.equal(one.mask(3), other.mask(3))
        assert not torch.equal(one[0].image, SyntheticObjects(size=20, seed=1)[0].image)
        assert not torch.equal(one[0].image, SyntheticObjects("val", size=20)[0].image)

    def test_objects_differ_and_captions_name_them(self) -> None:
        scenes, hidden = SyntheticObjects(size=200), {" ".join(pair) for pair in held_out_combinations()}
        both = 0
        for index in range(200):
            names = [scenes.class_names[label] for label in scenes.labels(index)]
            assert len(set(names)) == 2 and not hidden & set(names)
            assert len({name.split()[0] for name in names}) == len({name.split()[1] for name in names}) == 2
            caption = scenes.captions(index)[0]
            found = [name in caption for name in names]
            assert any(found)
            both += all(found)
        assert 60 < both < 140

    def test_the_picture_is_that_without_a_mask(self) -> None:
        groups = [Group("red", "ring", 2), Group("blue", "star", 1, "small", "on the right")]
        picture, mask = render_with_mask(groups, 50, random.Random(3))
        assert picture.tobytes() == render(groups, 50, random.Random(3)).tobytes()
        assert sorted(set(mask.getdata())) == [0, 1, 2]

    def test_the_hole_of_a_ring_is_not_the_ring(self) -> None:
        mask = np.array(render_with_mask([Group("red", "ring")], 60)[1])
        rows, columns = np.nonzero(mask)
        assert mask[round(rows.mean()), round(columns.mean())] == 0

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="objects 5 must be a whole number >= 1 and <= 4"):
            SyntheticObjects(objects=len(PLACES) + 1)
        with pytest.raises(InputError, match="objects split 'training' must be one of train, val, test"):
            SyntheticObjects("training")
        assert len(SyntheticObjects(size=1).class_names) == len(COLOURS) * len(SHAPES)


class TestFolders:
    def test_voc(self, tmp_path: Path) -> None:
        source = pair_sources.build({"name": "masks", "path": str(voc(tmp_path)), "layout": "voc"})
        assert isinstance(source, MaskedFolders) and len(source) == 2 and len(source.class_names) == 20
        assert source.class_names[0] == "aeroplane" and source.class_names[19] == "television monitor"
        assert source[0].key == "a" and source[0].image and source.place(0).endswith("a.jpg")
        assert source.mask(0)[::4, ::4].tolist() == [[BACKGROUND, 0], [19, UNLABELLED]]
        assert source.mask(1)[::4, ::4].tolist() == [[6, 6, BACKGROUND]]

    def test_context(self, tmp_path: Path) -> None:
        root = voc(tmp_path, "SegmentationClassContext", "SegmentationContext")
        (root / "59_labels.txt").write_text("0: empty\n" + "\n".join(f"{n}: thing {n}" for n in range(1, 60)))
        source = MaskedFolders(str(root), "context")
        assert len(source.class_names) == 59 and source.class_names[19] == "thing 20"
        assert source.mask(0)[::4, ::4].tolist() == [[BACKGROUND, 0], [19, UNLABELLED]]

    def test_ade20k(self, tmp_path: Path) -> None:
        mask = numbers([0, 1, 150])
        write(tmp_path / "images/validation", "ADE_val_1", mask)
        write(tmp_path / "annotations/validation", "ADE_val_1", mask, "")
        rows = [f"{n}\t0.1\t1\t1\tname {n}, another {n}" for n in range(1, 151)]
        (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
        source = MaskedFolders(str(tmp_path), "ade20k", "validation")
        assert source.class_names[0] == "name 1" and len(source.class_names) == 150
        assert source.mask(0)[0, ::4].tolist() == [UNLABELLED, 0, 149]

    def test_coco_stuff(self, tmp_path: Path) -> None:
        """As handed out numbers have gaps, which are closed; in the files of others they are already."""
        mask = numbers([0, 10, 12, 181, 255])
        write(tmp_path / "images/val2017", "1", mask)
        write(tmp_path / "annotations/val2017", "1", mask, "")
        names = ["0: unlabeled", *(f"{n}: name {n}" for n in range(1, 183))]
        (tmp_path / "labels.txt").write_text("\n".join(names))
        source = MaskedFolders(str(tmp_path), "coco_stuff")
        assert len(source.class_names) == 171
        found = source.mask(0)[0, ::4].tolist()
        assert found == [0, 10, 11, 170, UNLABELLED]
        assert [source.class_names[label] for label in found[:4]] == ["name 1", "name 11", "name 13", "name 182"]
        write(tmp_path / "annotations/val2017", "1_labelTrainIds", numbers([0, 11, 170]), "")
        assert MaskedFolders(str(tmp_path), "coco_stuff").mask(0)[0, ::4].tolist() == [0, 11, 170]

    def test_errors(self, tmp_path: Path) -> None:
        root = voc(tmp_path / "voc")
        with pytest.raises(InputError, match="masks layout 'vok' is not known: did you mean 'voc'"):
            MaskedFolders(str(root), "vok")
        with pytest.raises(InputError, match="list of the split .*test.txt' does not exist"):
            MaskedFolders(str(root), "voc", "test")
        with pytest.raises(InputError, match="pictures of ade20k .*images/val' does not exist"):
            MaskedFolders(str(root), "ade20k")
        (root / "SegmentationClass/b.png").unlink()
        with pytest.raises(InputError, match=r"SegmentationClass/b' is missing with any of the endings .png: is the set whole"):
            MaskedFolders(str(root), "voc")
        write(root / "SegmentationClass", "b", numbers([21]), "")
        with pytest.raises(InputError, match="has number 21, which is none of 20 classes"):
            MaskedFolders(str(root), "voc").mask(1)
        Image.new("RGB", (4, 4)).save(root / "SegmentationClass/b.png")
        with pytest.raises(InputError, match="has mode RGB: masks have one number a pixel"):
            MaskedFolders(str(root), "voc").mask(1)
        (root / "SegmentationClass/b.png").write_bytes(b"no")
        with pytest.raises(InputError, match="b.png' cannot be read"):
            MaskedFolders(str(root), "voc").mask(1)
