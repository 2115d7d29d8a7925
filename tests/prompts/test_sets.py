"""Evaluation sets by name: each is read as its authors lay it out on disk, and what is missing is said in one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision.datasets
import yaml
from data.faulty_server import serve
from data.test_shards import tar_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_clip import InputError
from lightning_clip.data.decoding import decode
from lightning_clip.prompts import resolve_templates
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets import CLASS_NAME_SETS, SET_TEMPLATES, TorchvisionSource, class_names, known, read_prompt_file
from lightning_clip.prompts.sets.splits import drawn
from lightning_clip.prompts.sets.torchvision import _SETS

SIZES = {
    "eurosat": 10, "fashion_mnist": 10, "fer2013": 7, "flowers102": 102, "gtsrb": 43, "imagenet": 1000, "mnist": 10, "pcam": 2,
    "rendered_sst2": 2, "stl10": 10, "svhn": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("LIGHTNING_CLIP_DATASETS", str(tmp_path_factory.mktemp("datasets")))


def build(name: str, **settings: Any) -> EvaluationSet:
    return evaluation_sets.build({"name": name, **settings})


def grey(value: int, kind: str = "PNG") -> bytes:
    """A picture whose brightness tells which it is."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (value, value, value)).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def shown(dataset: EvaluationSet, split: str = "source") -> list[tuple[int, str]]:
    """Brightness and class name of each picture of a split."""
    source = getattr(dataset, split)
    pairs = [source[place] for place in range(len(source))]
    for pair in pairs:
        assert pair.image.dtype == torch.uint8 and pair.image.shape[0] == 3 and pair.captions == ()
    return [(int(pair.image.float().mean().round()), dataset.names[pair.label]) for pair in pairs]


class TestNames:
    @pytest.mark.parametrize("name", sorted(CLASS_NAME_SETS))
    def test_as_many_as_classes_and_all_different(self, name: str) -> None:
        names = class_names(name)
        words = [word for several in names for word in ([several] if isinstance(several, str) else several)]
        assert len(names) == SIZES[name] and all(word == word.strip() for word in words)
        assert name == "imagenet" or len(set(words)) == len(words)
        names.append("more")
        assert len(class_names(name)) == SIZES[name]

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="unknown class names 'imagnet': did you mean 'imagenet'"):
            class_names("imagnet")

    @pytest.mark.parametrize("name", sorted(_SETS))
    def test_templates_of_each_set(self, name: str) -> None:
        found = resolve_templates(name)
        assert found == list(SET_TEMPLATES[name]) and all(template.count("{}") == 1 for template in found)
        assert len(set(found)) == len(found)

    def test_each_set_is_in_torchvision(self) -> None:
        assert {spec.kind for spec in _SETS.values()} <= set(torchvision.datasets.__all__)
        assert set(_SETS) <= set(SET_TEMPLATES) and set(_SETS) | {"clip_benchmark"} <= set(evaluation_sets.names())


# How each set lies on disk, as its authors published it: written by hand, read by torchvision.


def mnist(root: Path) -> None:
    for part, values in (("train", [10, 20, 30]), ("t10k", [40, 50])):
        pixels = b"".join(bytes([value]) * 28 * 28 for value in values)
        labels = bytes(value // 10 for value in values)
        put(root / f"raw/{part}-images-idx3-ubyte", struct.pack(">4i", 2051, len(values), 28, 28) + pixels)
        put(root / f"raw/{part}-labels-idx1-ubyte", struct.pack(">2i", 2049, len(values)) + labels)


def eurosat(root: Path) -> None:
    for label, folder in enumerate(("AnnualCrop", "Forest", "HerbaceousVegetation")):
        for number in range(6):
            put(root / f"eurosat/2750/{folder}/{folder}_{number}.png", grey(10 * label + number))


def gtsrb(root: Path) -> None:
    for label in range(43):
        put(root / f"gtsrb/GTSRB/Training/{label:05d}/00000_00000.ppm", grey(label, "PPM"))
    put(root / "gtsrb/GTSRB/Final_Test/Images/00000.ppm", grey(200, "PPM"))
    put(
        root / "gtsrb/GT-final_test.csv",
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.ppm;12;8;0;0;1;1;14\n",
    )


def dtd(root: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        put(root / f"dtd/dtd/labels/{split}1.txt", f"banded/{number}.jpg\ndotted/{number}.jpg\n")
        put(root / f"dtd/dtd/images/banded/{number}.jpg", grey(20 * number, "JPEG"))
        put(root / f"dtd/dtd/images/dotted/{number}.jpg", grey(20 * number + 10, "JPEG"))


def sun397(root: Path) -> None:
    put(root / "SUN397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    for number in range(4):
        put(root / f"SUN397/a/abbey/sun_{number}.jpg", grey(number, "JPEG"))
        put(root / f"SUN397/a/apartment_building/outdoor/sun_{number}.jpg", grey(100 + number, "JPEG"))


def caltech101(root: Path) -> None:
    for label, folder in enumerate(("BACKGROUND_Google", "Faces_easy", "yin_yang")):
        for number in range(1, 33):
            put(root / f"caltech101/101_ObjectCategories/{folder}/image_{number:04d}.jpg", grey(60 * label + number, "JPEG"))


def pets(root: Path) -> None:
    for split, value in (("trainval", 10), ("test", 20)):
        lines = f"great_pyrenees_{value} 1 2 1\nBombay_{value} 2 1 1\n"
        put(root / f"oxford-iiit-pet/annotations/{split}.txt", lines)
        put(root / f"oxford-iiit-pet/images/great_pyrenees_{value}.jpg", grey(value, "JPEG"))
        put(root / f"oxford-iiit-pet/images/Bombay_{value}.jpg", grey(value + 1, "JPEG"))


def fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    put(data / "variants.txt", "707-320\nBAE 146-200\n")
    for value, split in enumerate(("train", "val", "test")):
        put(data / f"images_variant_{split}.txt", f"{value} BAE 146-200\n")
        put(data / f"images/{value}.jpg", grey(10 * value, "JPEG"))


def food101(root: Path) -> None:
    for value, split in enumerate(("train", "test")):
        put(root / f"food-101/meta/{split}.json", json.dumps({"apple_pie": [], "baby_back_ribs": [f"baby_back_ribs/{value}"]}))
        put(root / f"food-101/images/baby_back_ribs/{value}.jpg", grey(10 * value, "JPEG"))


def rendered_sst2(root: Path) -> None:
    for value, split in enumerate(("train", "valid", "test")):
        for label, folder in enumerate(("negative", "positive")):
            put(root / f"rendered-sst2/{split}/{folder}/x.png", grey(10 * value + label))


def country211(root: Path) -> None:
    for value, split in enumerate(("train", "valid", "test")):
        for label, folder in enumerate(("AD", "ZW")):
            put(root / f"country211/{split}/{folder}/x.jpg", grey(10 * value + label, "JPEG"))


DRAWN = {"eurosat": (6, 12), "sun397": (4, 4), "caltech101": (4, 60)}
ON_DISK: dict[str, tuple[Callable[[Path], None], list[tuple[int, str]], dict[str, list[tuple[int, str]]]]] = {
    "mnist": (lambda root: mnist(root / "MNIST"), [(40, "4"), (50, "5")], {"train": [(10, "1"), (20, "2"), (30, "3")]}),
    "fashion_mnist": (lambda root: mnist(root / "FashionMNIST"), [(40, "coat"), (50, "sandal")], {}),
    "gtsrb": (gtsrb, [(200, "stop")], {"train": [(label, name) for label, name in enumerate(class_names("gtsrb"))]}),
    "dtd": (dtd, [(40, "banded"), (50, "dotted")], {"val": [(20, "banded"), (30, "dotted")]}),
    "pets": (pets, [(20, "great pyrenees"), (21, "Bombay")], {"train": [(10, "great pyrenees"), (11, "Bombay")]}),
    "fgvc_aircraft": (fgvc_aircraft, [(20, "BAE 146-200")], {"train": [(0, "BAE 146-200")], "val": [(10, "BAE 146-200")]}),
    "food101": (food101, [(10, "baby back ribs")], {"train": [(0, "baby back ribs")]}),
    "rendered_sst2": (rendered_sst2, [(20, "negative"), (21, "positive")], {"val": [(10, "negative"), (11, "positive")]}),
    "country211": (country211, [(20, "AD"), (21, "ZW")], {"train": [(0, "AD"), (1, "ZW")], "val": [(10, "AD"), (11, "ZW")]}),
}  # fmt: skip


class TestOnDisk:
    @pytest.mark.parametrize("name", sorted(ON_DISK))
    def test_pictures_and_names(self, name: str, tmp_path: Path) -> None:
        write, test, others = ON_DISK[name]
        write(tmp_path)
        dataset = build(name, root=str(tmp_path))
        assert shown(dataset) == test and dataset.templates == list(SET_TEMPLATES[name])
        for split, expected in others.items():
            assert shown(dataset, split) == expected
        assert dataset.source[0].key == "test/0" and dataset.source.captions(0) == ()
        with pytest.raises(IndexError):
            dataset.source[len(test)]

    @pytest.mark.parametrize(
        ("name", "write", "names"),
        [
            ("eurosat", eurosat, {"annual crop land", "forest", "brushland or shrubland"}),
            ("sun397", sun397, {"abbey", "apartment building outdoor"}),
            ("caltech101", caltech101, {"centered face", "yin yang"}),
        ],
    )
    def test_sets_in_one_piece(self, name: str, write: Callable[[Path], None], names: set[str], tmp_path: Path) -> None:
        """Drawn the same each time, each class in both splits, no picture in both and none in neither."""
        write(tmp_path)
        dataset, again = build(name, root=str(tmp_path)), build(name, root=str(tmp_path))
        test, train = shown(dataset), shown(dataset, "train")
        assert (len(test), len(train)) == DRAWN[name] and len(set(test + train)) == len(test) + len(train)
        assert {word for _, word in test} == {word for _, word in train} == names and dataset.val is None
        assert shown(again) == test and len(set(Counter(word for _, word in test).values())) == 1

    def test_order_of_the_file_system_does_not_matter(self, tmp_path: Path) -> None:
        sun397(tmp_path)
        listed = shown(build("sun397", root=str(tmp_path)))
        with patch.object(Path, "rglob", lambda self, pattern: iter(sorted(self.glob(f"**/{pattern}"), reverse=True))):
            assert shown(build("sun397", root=str(tmp_path))) == listed

    def test_default_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mnist(tmp_path / "MNIST")
        monkeypatch.setenv("LIGHTNING_CLIP_DATASETS", str(tmp_path))
        assert len(build("mnist").source) == 2
        monkeypatch.delenv("LIGHTNING_CLIP_DATASETS")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        with pytest.raises(InputError, match="home/.cache/lightning_clip/datasets/MNIST/raw"):
            build("mnist")

    def test_other_words(self, tmp_path: Path) -> None:
        mnist(tmp_path / "MNIST")
        put(tmp_path / "zh.yaml", "class_names: [零, 一, 二, 三, 四, 五, 六, 七, 八, 九]\ntemplates: ['数字{}的照片']\n")
        dataset = build("mnist", root=str(tmp_path), prompts=str(tmp_path / "zh.yaml"))
        assert shown(dataset) == [(40, "四"), (50, "五")] and dataset.templates == ["数字{}的照片"]
        dataset = build("mnist", root=str(tmp_path), prompts=str(tmp_path / "zh.yaml"), templates="plain")
        assert dataset.templates == ["{}"] and dataset.names[0] == "零"
        put(tmp_path / "few.json", '{"class_names": ["a", "b"]}')
        with pytest.raises(InputError, match="has 2 classes but the set has 10: 0, 1, 2, 3, 4, ..."):
            build("mnist", root=str(tmp_path), prompts=str(tmp_path / "few.json"))

    def test_splits_are_opened_when_used_and_sent_to_workers(self, tmp_path: Path) -> None:
        gtsrb(tmp_path)
        shutil.rmtree(tmp_path / "gtsrb/GTSRB/Training")
        dataset = pickle.loads(pickle.dumps(build("gtsrb", root=str(tmp_path))))
        assert shown(dataset) == [(200, "stop")]
        with pytest.raises(InputError, match="'gtsrb' is not in"):
            len(dataset.train)
        gtsrb(tmp_path)
        assert len(dataset.train) == 43 and dataset.train.order(0).samples(0, 0, 43).sum() == 43 * 42 / 2
        assert dataset.train.visited(1, 14).label == 14 and dataset.train.captions(0) == ()


class Fake:
    """In the place of a torchvision class whose files are too large to write by hand."""

    classes = ["aquarium_fish", "apple"]
    seen: list[dict[str, Any]] = []

    def __init__(self, root: str, **settings: Any) -> None:
        Fake.seen.append(settings)
        self.value = 10 if settings.get("train") or settings.get("split") == "train" else 20

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.new("L", (4, 4), self.value + index), index


class TestSettings:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "pcam", "flowers102", "stanford_cars", "fer2013"])
    def test_splits(self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(torchvision.datasets, _SETS[name].kind, Fake)
        monkeypatch.setattr(Fake, "seen", [])
        dataset = build(name, root=str(tmp_path), download=False)
        assert [value for value, _ in shown(dataset)] == [20, 21] and len(Fake.seen) == 1
        assert [value for value, _ in shown(dataset, "train")] == [10, 11]
        assert name not in ("cifar10", "cifar100") or dataset.names == ["aquarium fish", "apple"]
        fetchable = name not in ("stanford_cars", "fer2013")
        assert all(("download" in settings) == fetchable for settings in Fake.seen)

    def test_real_classes_take_these_settings(self) -> None:
        import inspect

        for spec in _SETS.values():
            signature = inspect.signature(getattr(torchvision.datasets, spec.kind))
            for settings in (spec.splits or {"test": {}}).values():
                signature.bind("root", **settings, **({"download": True} if spec.fetchable else {}))

    @pytest.mark.parametrize(
        "picture",
        [
            np.full((5, 6), 7, dtype=np.uint8),
            np.full((5, 6, 3), 7, dtype=np.uint8),
            torch.full((3, 5, 6), 7, dtype=torch.uint8),
            torch.full((1, 5, 6), 7, dtype=torch.uint8),
            torch.full((5, 6), 7, dtype=torch.uint8),
            Image.new("L", (6, 5), 7),
        ],
    )
    def test_kinds_of_pictures(self, picture: Any) -> None:
        image = TorchvisionSource([(picture, 1)])[0].image
        assert torch.equal(image, torch.full((3, 5, 6), 7, dtype=torch.uint8))

    def test_refused_pictures(self) -> None:
        with pytest.raises(ValueError, match=r"picture is torch.float32 \(3, 5, 6\), not uint8"):
            TorchvisionSource([(torch.zeros(3, 5, 6), 1)])[0]


class TestMissing:
    @pytest.mark.parametrize("name", sorted(set(_SETS) - {"pcam"}))
    def test_says_where_it_looked_and_what_to_do(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            build(name, root=str(tmp_path))
        message, spec = str(caught.value), _SETS[name]
        assert f"{name!r} is not in {str(tmp_path / spec.folder)!r}" in message
        assert f"put the data into {str(tmp_path / spec.folder)!r} as torchvision.datasets.{spec.kind} has it" in message
        assert ("set download=true" in message) == spec.fetchable and "download=True" not in message

    @pytest.mark.parametrize("name", ["mnist", "cifar10", "pets", "eurosat", "dtd"])
    def test_no_network(self, name: str, tmp_path: Path) -> None:
        from urllib.error import URLError

        with (
            patch("urllib.request.urlopen", side_effect=URLError("no route to host")),
            pytest.raises(InputError, match=rf"'{name}' could not be downloaded to .*: try again, or put the data into"),
        ):
            build(name, root=str(tmp_path), download=True)

    def test_cannot_be_downloaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By torchvision; CLIP_benchmark's shards are read in its place."""
        with pytest.raises(InputError, match="torchvision cannot download it; put the data into"):
            build("fer2013", root=str(tmp_path))
        asked: list[str] = []

        def fetched(path: str, **_: Any) -> EvaluationSet:
            asked.append(path)
            return EvaluationSet([], ["a"], ["{}"])  # type: ignore[arg-type]

        monkeypatch.setattr(known, "clip_benchmark", fetched)
        assert build("fer2013", root=str(tmp_path), download=True).class_names == ["a"]
        assert asked == ["https://huggingface.co/datasets/clip-benchmark/wds_fer2013/resolve/main"]

    @pytest.mark.parametrize(
        "error", [RuntimeError("h5py is not found: pip install h5py"), ImportError("No module named 'h5py'")]
    )
    def test_missing_package(self, error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(torchvision.datasets, "PCAM", broken)
        with pytest.raises(InputError, match="'pcam' needs a package that is not installed.*h5py"):
            build("pcam", root=str(tmp_path))

    def test_broken_file(self, tmp_path: Path) -> None:
        mnist(tmp_path / "MNIST")
        put(tmp_path / "MNIST/raw/t10k-images-idx3-ubyte", gzip.compress(b"x"))
        with pytest.raises(InputError, match=r"'mnist' is not in .*, or not whole"):
            build("mnist", root=str(tmp_path))

    def test_empty_and_unlabelled(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(torchvision.datasets, "FER2013", lambda *_, **__: [])
        with pytest.raises(InputError, match="test split of 'fer2013' in .* is empty"):
            build("fer2013", root=str(tmp_path))
        monkeypatch.setattr(torchvision.datasets, "FER2013", lambda *_, **__: [(Image.new("L", (4, 4)), None)])
        with pytest.raises(InputError, match="test split of 'fer2013' has no labels"):
            build("fer2013", root=str(tmp_path))

    def test_unknown_setting(self) -> None:
        with pytest.raises(InputError, match="evaluation set 'mnist' has no setting 'folder'"):
            build("mnist", folder="x")


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), share=st.sampled_from([0.5, 2 / 3, 3, 30]))
def test_drawn(labels: list[int], share: float) -> None:
    """A partition; each class leaves at least one picture for the test."""
    parts = drawn(labels, share)
    assert sorted([*parts["train"].tolist(), *parts["test"].tolist()]) == list(range(len(labels)))
    for label in set(labels):
        total = labels.count(label)
        train = sum(labels[place] == label for place in parts["train"])
        assert train == min(round(total * share) if share < 1 else share, total - 1)


class TestPromptFile:
    def write(self, folder: Path, content: Any, name: str = "prompts.yaml") -> Path:
        text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
        put(folder / name, text)
        return folder / name

    def test_list_and_mapping_in_yaml_and_json(self, tmp_path: Path) -> None:
        content = {"class_names": ["кошка", ["собака", "пёс"]], "templates": ["фото: {}"]}
        expected = (["кошка", ["собака", "пёс"]], ["фото: {}"])
        assert read_prompt_file(self.write(tmp_path, content)) == expected
        assert read_prompt_file(self.write(tmp_path, json.dumps(content), "p.json")) == expected
        mapping = {"class_names": {"n2": ["dog", "hound"], "n1": "cat"}, "templates": "a {}"}
        assert read_prompt_file(self.write(tmp_path, json.dumps(mapping), "p.json")) == ([["dog", "hound"], "cat"], ["a {}"])
        assert read_prompt_file(self.write(tmp_path, {"templates": "simple"})) == ([], ["a photo of a {}."])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"classes": ["a"]}, "has an unknown key 'classes': did you mean 'class_names'"),
            ({"class_names": []}, r"class_names \[\] must be a list of names"),
            ({"class_names": "cat"}, "class_names 'cat' must be a list of names"),
            ({"class_names": ["cat", ""]}, "class 1 is empty: give it at least one name"),
            ({"class_names": {"cat": []}}, "class 'cat' is empty"),
            ({"class_names": {"cat": None}}, "class 'cat' is empty"),
            ({"class_names": ["cat", ["dog", " "]]}, "class 1 has an empty name"),
            ({"class_names": [0, 1]}, "class 0 has the name 0, which is no text: put it in quotes"),
            ("class_names: [yes, no]", "class 0 has the name True, which is no text"),
            ({"class_names": ["cat", "dog", "cat "]}, "name 'cat ' is given to class 0 and to 2: keep one"),
            ({"class_names": {"a": ["cat", "cat"]}}, "name 'cat' is given to class 'a' and to 'a'"),
            ("class_names: {cat: [a], cat: [b]}", "duplicate key 'cat': keep one"),
            ({"templates": ["a photo"]}, "template 'a photo' must have one {}"),
            ({"templates": {"a": "{}"}}, "must be a list of sentences"),
            ({"templates": []}, "templates is an empty list"),
            (["cat"], "must be a mapping with class_names and templates"),
            ("", "must be a mapping"),
            ("a: [", "is no YAML in UTF-8"),
        ],
    )
    def test_refuses(self, content: Any, message: str, tmp_path: Path) -> None:
        path = self.write(tmp_path, content)
        with pytest.raises(InputError, match=f"prompt file .*prompts.yaml'.*{message}"):
            read_prompt_file(path)

    def test_refuses_other_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="prompt file 'x.yaml' does not exist"):
            read_prompt_file("x.yaml")
        with pytest.raises(InputError, match="must end in .yaml, .yml or .json"):
            read_prompt_file(self.write(tmp_path, "x", "p.txt"))
        with pytest.raises(InputError, match="is no JSON in UTF-8"):
            read_prompt_file(self.write(tmp_path, "{", "p.json"))
        with pytest.raises(InputError, match="p.json': duplicate key 'a'"):
            read_prompt_file(self.write(tmp_path, '{"class_names": {"a": "x", "a": "y"}}', "p.json"))
        put(tmp_path / "latin.yaml", "class_names: [é]".encode("latin-1"))
        with pytest.raises(InputError, match="is no YAML in UTF-8"):
            read_prompt_file(tmp_path / "latin.yaml")


def benchmark_files(kind: str = "classification") -> dict[str, bytes]:
    """A folder as clip_benchmark_export_wds writes it: two test shards, one of training."""

    def shard(values: list[int]) -> bytes:
        members: dict[str, bytes] = {}
        for value in values:
            members[f"s{value:07d}.webp"] = grey(value, "WEBP")
            if kind == "retrieval":
                members[f"s{value:07d}.txt"] = f"grey {value}\nbrightness {value}\n".encode()
            elif kind == "multilabel":
                buffer = io.BytesIO()
                np.save(buffer, np.array([value % 2, value > 20, 0]))
                members[f"s{value:07d}.npy"] = buffer.getvalue()
            else:
                members[f"s{value:07d}.cls"] = str(value % 2).encode()
        return tar_bytes(members)

    files = {
        "test/0.tar": shard([10, 11]), "test/1.tar": shard([22]), "test/nshards.txt": b"2\n",
        "train/0.tar": shard([30]), "train/nshards.txt": b"1",
    }  # fmt: skip
    if kind == "retrieval":
        return {**files, "dataset_type.txt": b"retrieval\n"}
    words = {"classnames.txt": b"even\nodd\nlast\n", "zeroshot_classification_templates.txt": b"a {c}.\n\nthe {c}.\n"}
    return {**files, **words, **({"dataset_type.txt": b"multilabel"} if kind == "multilabel" else {})}


def benchmark_folder(root: Path, kind: str = "classification", **changes: bytes | None) -> str:
    for name, content in {**benchmark_files(kind), **changes}.items():
        if content is not None:
            put(root / name, content)
    return str(root)


class TestClipBenchmark:
    def seen(self, source: Any) -> list[tuple[int, Any]]:
        pairs = [source[place] for place in range(len(source))]
        values = [int(decode(pair.image).float().mean().round()) for pair in pairs]
        return [(value, pair.metadata.get("labels", pair.label)) for value, pair in zip(values, pairs, strict=True)]

    def test_classification(self, tmp_path: Path) -> None:
        dataset = build("clip_benchmark", path=benchmark_folder(tmp_path))
        assert self.seen(dataset.source) == [(10, 0), (11, 1), (22, 0)] and self.seen(dataset.train) == [(30, 0)]
        assert dataset.class_names == ["even", "odd", "last"] and dataset.templates == ["a {}.", "the {}."]
        assert not dataset.multilabel and dataset.source[0].key == "s0000010"

    def test_without_what_may_be_absent(self, tmp_path: Path) -> None:
        absent = ("zeroshot_classification_templates.txt", "train/0.tar", "train/nshards.txt", "test/nshards.txt")
        dataset = build("clip_benchmark", path=benchmark_folder(tmp_path, **dict.fromkeys(absent)))
        assert len(dataset.source) == 3 and dataset.train is None and dataset.templates == ["a photo of a {}."]

    def test_other_split_and_words(self, tmp_path: Path) -> None:
        path = benchmark_folder(tmp_path / "set", **{"classnames.txt": None})
        with pytest.raises(InputError, match="has no classnames.txt: write one"):
            build("clip_benchmark", path=path)
        put(tmp_path / "p.yaml", "class_names: [[gerade, glatt], ungerade]")
        dataset = build("clip_benchmark", path=path, split="train", prompts=str(tmp_path / "p.yaml"), templates="{}!")
        assert dataset.names == ["gerade", "ungerade"] and dataset.templates == ["{}!"]
        assert len(dataset.source) == 1 and dataset.train is None

    def test_retrieval(self, tmp_path: Path) -> None:
        dataset = build("clip_benchmark", path=benchmark_folder(tmp_path, "retrieval"))
        assert dataset.source[2].captions == dataset.source.captions(2) == ("grey 22", "brightness 22")
        assert len(dataset.source) == 3 and dataset.class_names == [] and len(dataset.train.captions(0)) == 2
        assert sorted(dataset.source.order(0).samples(0, 0, 3).tolist()) == [0, 1, 2]

    def test_multilabel(self, tmp_path: Path) -> None:
        dataset = build("clip_benchmark", path=benchmark_folder(tmp_path, "multilabel"))
        assert dataset.multilabel and self.seen(dataset.source) == [(10, []), (11, [0]), (22, [1])]
        assert self.seen(pickle.loads(pickle.dumps(dataset.source)))[1] == (11, [0])
        assert dataset.source[0].key == "s0000010" and dataset.source.captions(0) == ()

    def test_multilabel_without_vectors(self, tmp_path: Path) -> None:
        shard = benchmark_files()["test/0.tar"]
        path = benchmark_folder(tmp_path, "multilabel", **{"test/0.tar": shard, "test/1.tar": shard})
        with pytest.raises(InputError, match="hold no image with a .npy of its labels beside it"):
            build("clip_benchmark", path=path)

    @pytest.mark.parametrize("kind", ["classification", "retrieval"])
    def test_over_http(self, kind: str, tmp_path: Path) -> None:
        files = {f"sets/{kind}/{name}": content for name, content in benchmark_files(kind).items()}
        with serve(files) as server:
            dataset = build("clip_benchmark", path=f"{server.url}/sets/{kind}/", cache_folder=str(tmp_path))
            assert server.asked[f"sets/{kind}/train/0.tar"] == 0
            assert len(dataset.source) == 3 and len(dataset.train) == 1
            if kind == "retrieval":
                assert dataset.source.captions(0) == ("grey 10", "brightness 10")
                dataset.source.fetch([0])
            else:
                assert self.seen(dataset.source) == [(10, 0), (11, 1), (22, 0)] and dataset.names[0] == "even"
        assert len(list(tmp_path.glob("*.tar"))) == 3

    def test_other_file_systems(self, tmp_path: Path) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        for name, content in benchmark_files().items():
            memory.pipe_file(f"/bucket/{name}", content)
        dataset = build("clip_benchmark", path="memory://bucket", cache_folder=str(tmp_path))
        assert self.seen(dataset.source) == [(10, 0), (11, 1), (22, 0)] and self.seen(dataset.train) == [(30, 0)]

    def test_faults(self, tmp_path: Path) -> None:
        def refused(message: str, kind: str = "classification", **changes: bytes | None) -> None:
            root = tmp_path / str(len(list(tmp_path.iterdir())))
            with pytest.raises(InputError, match=message):
                build("clip_benchmark", path=benchmark_folder(root, kind, **changes))

        refused(
            "is 'detection', which is not supported: known are classification, retrieval", **{"dataset_type.txt": b"detection"}
        )
        refused("nshards.txt of .* says 'two', not a number of shards", **{"test/nshards.txt": b"two"})
        refused("line 2 of classnames.txt in .* is empty", **{"classnames.txt": b"a\n\nb\n"})
        refused("template 'a photo' of .* has no {c}", **{"zeroshot_classification_templates.txt": b"a photo\n"})
        refused("2.tar", **{"test/nshards.txt": b"3"})
        with pytest.raises(InputError, match="folder of CLIP_benchmark .* does not exist"):
            build("clip_benchmark", path=str(tmp_path / "absent"))
        with pytest.raises(InputError, match="has no val/nshards.txt and no val/0.tar"):
            build("clip_benchmark", path=benchmark_folder(tmp_path / "whole"), split="val")
        with pytest.raises(InputError, match="nonsense://x.*[Pp]rotocol"):
            build("clip_benchmark", path="nonsense://x")

    def test_remote_multilabel(self) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        for name, content in benchmark_files("multilabel").items():
            memory.pipe_file(f"/several/{name}", content)
        with pytest.raises(InputError, match="several labels an image: copy the folder to this machine"):
            build("clip_benchmark", path="memory://several")
