"""Sets by name: each opens a small copy of its layout, made here, with the right classes, words and splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prompts.named_layouts import LAYOUTS, grey, put, shards

from lightning_clip import InputError
from lightning_clip.data.decoding import decode
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets import class_names, known_sets
from lightning_clip.prompts.sets.counted import vehicle_distance
from lightning_clip.prompts.sets.imagenet_classes import synsets
from lightning_clip.prompts.sets.paper_words import PAPER_SETS, in_the_papers_words, paper_class_names, paper_templates
from lightning_clip.prompts.sets.torchvision import _SETS

# Test split and training split of each: brightness of a picture and its class, or its captions.
EXPECTED: dict[str, tuple[list[Any], list[Any] | None]] = {
    "aro_attribution": ([(80, "red_wet")], None),
    "aro_relation": ([(80, "on")], None),
    "birdsnap": (
        [(10, "Acadian Flycatcher"), (60, "Zone tailed Hawk")],
        [(0, "Acadian Flycatcher"), (50, "Zone tailed Hawk")],
    ),
    "clevr_counts": ([(100, "3"), (110, "10")], [(0, "3"), (10, "10")]),
    "coco_captions": ([(10, tuple(f"caption 1 {n}" for n in range(5))), (20, tuple(f"caption 2 {n}" for n in range(5)))], None),
    "coco_cn": ([(10, ("图1",)), (20, ("图2",))], None),
    "crossmodal3600": ([(0, ("en 0 0", "en 0 1")), (10, ("en 1 0", "en 1 1"))], None),
    "flickr30k": ([(10, tuple(f"caption 1 {n}" for n in range(5))), (20, tuple(f"caption 2 {n}" for n in range(5)))], None),
    "flickr30k_cn": ([(10, ("图1",)), (20, ("图2",))], None),
    "hateful_memes": ([(100, "meme"), (110, "hatespeech meme")], [(0, "meme"), (10, "hatespeech meme")]),
    "imagenet": ([(10, "tench"), (60, "hen")], [(0, "tench"), (50, "hen")]),
    "imagenet_a": ([(0, "stingray"), (10, "bee")], None),
    "imagenet_r": ([(0, "goldfish"), (10, "bee")], None),
    "imagenet_sketch": ([(0, "tench"), (10, "toilet paper")], None),
    "imagenet_v2": ([(0, "tench"), (10, "brambling"), (20, "toilet paper")], None),
    "kinetics700": ([(10, "abseiling"), (60, "zumba")], [(0, "abseiling"), (50, "zumba")]),
    "muge": ([(10, ("图1",)), (20, ("图2",))], None),
    "objectnet": ([(20, "alarm clock"), (70, "bicycle")], None),
    "sugarcrepe": ([(0, "add_att"), (10, "swap_obj")], None),
    "winoground": ([(0, "Object"), (10, "Object"), (20, "Relation"), (30, "Relation")], None),
}


def opened(name: str, root: Path, **settings: Any) -> EvaluationSet:
    return evaluation_sets.build({"name": name, "root": str(root), **settings})


def shown(found: EvaluationSet, split: str = "source") -> list[Any]:
    """Brightness with class, or with captions where there are no classes."""
    source, rows = getattr(found, split), []
    for place in range(len(source)):
        pair = source[place]
        value = int(decode(pair.image).float().mean().round())
        rows.append((value, pair.captions if pair.label is None else found.names[pair.label]))
    return rows


@pytest.mark.parametrize("name", EXPECTED)
def test_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    found, (test, train) = opened(name, tmp_path), EXPECTED[name]
    assert shown(found) == test
    assert train is None or (found.train is not None and shown(found, "train") == train)
    assert not train or found.source[0].key != found.train[0].key  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name, known in known_sets().items() if known.shards])
def test_shards_come_first(name: str, tmp_path: Path) -> None:
    """Shards under CLIP_benchmark's name, or under the set's own; retrieval too."""
    known = known_sets()[name]
    words = [f"class {number}" for number in range(3)] if known.classes else []
    if name == "voc2007":
        return  # of several labels an image: `test_voc_in_shards`
    shards(tmp_path / known.shards, words, "cls" if words else "txt")
    found = opened(name, tmp_path)
    if words:
        assert shown(found) == [(0, "class 0"), (10, "class 1"), (20, "class 2")] and found.templates == ["a photo of {}."]
        assert opened(name, tmp_path, templates="plain").templates == ["{}"]
    else:
        assert shown(found) == [(0, ("a dog", "a cat")), (10, ("a dog", "a cat"))]


def test_names_are_all_there() -> None:
    """Every known set is registered and has a small copy of its layout in some test."""
    assert set(known_sets()) <= set(evaluation_sets.names()) and len(known_sets()) >= 50
    of_torchvision = set(_SETS)
    by_shards = {name for name, known in known_sets().items() if known.shards and not known.files}
    assert set(known_sets()) == set(LAYOUTS) | of_torchvision | by_shards | {"ucf101"}


def test_drawn_sets(tmp_path: Path) -> None:
    LAYOUTS["resisc45"](tmp_path)
    found = opened("resisc45", tmp_path)
    assert found.names == ["airplane", "baseball diamond"] and len(found.source) == 4 and len(found.train or ()) == 140
    LAYOUTS["kitti_distance"](tmp_path)
    found = opened("kitti_distance", tmp_path)
    both = shown(found) + shown(found, "train")
    beside, nothing = found.names[0], found.names[3]
    assert sorted(both) == [(0, beside), (10, beside), (20, nothing), (30, nothing)] and found.templates == ["{}"]


@pytest.mark.parametrize(("metres", "label"), [(8.0, 0), (8.1, 1), (20.0, 1), (20.5, 2), (900, 2), (None, 3)])
def test_distance_of_vehicles(metres: float | None, label: int) -> None:
    car = "" if metres is None else f"Car 0 0 0 0 0 0 0 0 0 0 0 0 {metres} 0"
    assert vehicle_distance(f"Cyclist 0 0 0 0 0 0 0 0 0 0 0 0 1.0 0\n{car}\n") == label


def test_voc(tmp_path: Path) -> None:
    LAYOUTS["voc2007"](tmp_path)
    found = opened("voc2007", tmp_path)
    assert found.multilabel and len(found.names) == 20
    dog, person, sofa = map(found.names.index, ("dog", "person", "sofa"))
    first, second = found.source[0], found.source[1]
    assert first.metadata == {"labels": [dog, person], "unsure": [sofa]} and second.metadata == {
        "labels": [person],
        "unsure": [],
    }
    for split, value in (("train", 0), ("val", 10)):
        source = getattr(found, split)
        assert len(source) == 2 and int(decode(source[0].image).float().mean().round()) == value
    put(tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt", "200001 1\n")
    with pytest.raises(InputError, match="name different images: unpack VOC 2007 again"):
        opened("voc2007", tmp_path)
    put(tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt", "200001 dog\n")
    with pytest.raises(InputError, match="cannot be read as lines of an image and 1, 0 or -1"):
        opened("voc2007", tmp_path)


def test_classes_of_imagenets_shifts(tmp_path: Path) -> None:
    for name in ("imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_v2", "objectnet"):
        LAYOUTS[name](tmp_path)
    words = class_names("imagenet")
    for name, many in (("imagenet_a", 200), ("imagenet_r", 200), ("imagenet_sketch", 1000), ("imagenet_v2", 1000)):
        found = opened(name, tmp_path)
        assert len(found.names) == len(found.parents or ()) == many
        assert found.names == [words[place] for (place,) in found.parents or ()]
    assert opened("objectnet", tmp_path).parents == [[409], [444, 671]]  # the alarm clock, the bicycle of two kinds
    assert opened("imagenet_r", tmp_path).parents[0] == [synsets("imagenet").index(synsets("imagenet_r")[0])]  # type: ignore[index]
    shards(tmp_path / "shards/wds_imagenet-a", [f"class {number}" for number in range(200)])
    assert opened("imagenet_a", tmp_path / "shards").parents == opened("imagenet_a", tmp_path).parents


def test_languages(tmp_path: Path) -> None:
    LAYOUTS["crossmodal3600"](tmp_path)
    found = opened("crossmodal3600", tmp_path, language="no")
    assert found.source.captions(1) == ("no 1 0", "no 1 1")
    with pytest.raises(InputError, match="no captions in language 'nn': Known: en, no, zh"):
        opened("crossmodal3600", tmp_path, language="nn")


def test_questions(tmp_path: Path) -> None:
    LAYOUTS["winoground"](tmp_path)
    source = opened("winoground", tmp_path).source
    assert [source.captions(place)[0] for place in range(4)] == ["a 0 b", "b 0 a", "a 1 b", "b 1 a"]
    assert source[1].metadata == {"choices": ["b 0 a", "a 0 b"], "answer": 0}
    LAYOUTS["aro_relation"](tmp_path)
    pair = opened("aro_relation", tmp_path).source[0]
    assert tuple(pair.image.shape) == (3, 4, 6) and pair.metadata["choices"][1] == "the mat is on the dog"  # type: ignore[union-attr]


def test_middle_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    import numpy as np
    from videos import write_video

    frames = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (20, 60, 100, 140, 180)]
    for name in ("ApplyLipstick/v_ApplyLipstick_g01_c01", "Archery/v_Archery_g01_c01"):
        (tmp_path / f"ucf101/UCF-101/{name}.avi").parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / f"ucf101/UCF-101/{name}.avi", frames)
    put(tmp_path / "ucf101/ucfTrainTestlist/testlist01.txt", "Archery/v_Archery_g01_c01.avi\n")
    lists = "ApplyLipstick/v_ApplyLipstick_g01_c01.avi 2\nArchery/v_Archery_g01_c01.avi 3\n"
    put(tmp_path / "ucf101/ucfTrainTestlist/trainlist01.txt", lists)
    found = opened("ucf101", tmp_path)
    assert found.names == ["Archery"] and abs(shown(found)[0][0] - 100) < 12
    assert [word for _, word in shown(found, "train")] == ["Archery"]
    (tmp_path / "ucf101/UCF-101").rename(tmp_path / "ucf101/val")
    (tmp_path / "ucf101").rename(tmp_path / "kinetics700")
    found = opened("kinetics700", tmp_path)
    assert found.names == ["ApplyLipstick", "archery"] and [word for _, word in shown(found)] == found.names


class TestMissing:
    def test_says_where_it_looked(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"'objectnet' is not in '.*objectnet-1.0' or '.*wds_objectnet': set download"):
            opened("objectnet", tmp_path)
        with pytest.raises(InputError, match=r"'winoground' is not in '.*winoground': put it there: it cannot be downloaded"):
            opened("winoground", tmp_path)
        with pytest.raises(InputError, match="'dmlab' is not in '.*wds_vtab-dmlab': set download=true"):
            opened("dmlab", tmp_path)

    @pytest.mark.parametrize(
        ("name", "gone", "message"),
        [
            ("birdsnap", "birdsnap/test", "has no folder 'test'"),
            ("clevr_counts", "clevr/CLEVR_v1.0/scenes/CLEVR_val_scenes.json", "cannot be read as CLEVR's scenes"),
            ("kitti_distance", "Kitti/raw/training/label_2/000001.txt", "has no '.*000001.txt': unpack KITTI's labels"),
            ("hateful_memes", "hateful_memes/dev_seen.jsonl", "has no dev_seen.jsonl or dev.jsonl"),
            ("flickr30k", "flickr30k/dataset_flickr30k.json", "has no dataset_flickr30k.json: put Karpathy's splits there"),
            ("crossmodal3600", "xm3600/captions.jsonl", "cannot be read as lines of JSON"),
            ("sugarcrepe", "sugarcrepe/add_att.json", "has none of add_att.json, add_obj.json"),
            ("winoground", "winoground/data/examples.jsonl", "cannot be read as JSON"),
            ("objectnet", "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json", "mapping of ObjectNet .* does not exist"),
        ],
    )
    def test_a_part_is_gone(self, name: str, gone: str, message: str, tmp_path: Path) -> None:
        LAYOUTS[name](tmp_path)
        place = tmp_path / gone
        if place.is_dir():
            place.rename(place.with_name("elsewhere"))
        else:
            place.unlink()
            if name == "sugarcrepe":
                (tmp_path / "sugarcrepe/swap_obj.json").unlink()
        with pytest.raises(InputError, match=message):
            opened(name, tmp_path)

    def test_damaged(self, tmp_path: Path) -> None:
        LAYOUTS["hateful_memes"](tmp_path)
        put(tmp_path / "hateful_memes/dev_seen.jsonl", json.dumps({"id": 1}))
        with pytest.raises(InputError, match="has a line without img and label"):
            opened("hateful_memes", tmp_path)
        LAYOUTS["imagenet"](tmp_path)
        put(tmp_path / "imagenet/val/cats/x.JPEG", grey(0, "JPEG"))
        with pytest.raises(InputError, match="cats' is no class of imagenet, whose folders are named like n01440764"):
            opened("imagenet", tmp_path)
        put(tmp_path / "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json", "[")
        put(tmp_path / "objectnet-1.0/mappings/folder_to_objectnet_label.json", "{}")
        put(tmp_path / "objectnet-1.0/mappings/pytorch_to_imagenet_2012_id.json", "{}")
        put(tmp_path / "objectnet-1.0/mappings/imagenet_to_label_2012_v2", "")
        with pytest.raises(InputError, match="is no JSON"):
            opened("objectnet", tmp_path)


class TestPapersWords:
    @pytest.mark.parametrize("name", PAPER_SETS)
    def test_as_many_as_the_set_has(self, name: str) -> None:
        names = paper_class_names(name)
        assert len(names) - (name == "caltech101") == known_sets()[name].classes  # with a class for the background
        assert all(template.count("{}") == 1 for template in paper_templates(name))

    def test_by_letters(self) -> None:
        own = ["Faces", "Faces_easy", "yin_yang", "flamingo_head", "something_new"]
        words = ["off-center face", "centered face", "yin yang", "head of a flamingo", "something new"]
        assert in_the_papers_words("caltech101", own) == words
        assert in_the_papers_words("pets", ["American_Bulldog"]) == ["american bulldog"]
        assert in_the_papers_words("fgvc_aircraft", ["F/A-18"]) == ["F/A-18"]
