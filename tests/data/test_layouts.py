"""What people have, read as it is: each layout through inspect, verify, pack, a fit of two steps, features and evaluate."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import small_module, small_trainer

from lightning_clip import ClipDataModule, ClipModule, InputError
from lightning_clip.data import PairSource, pair_sources
from lightning_clip.data.inspect import inspect_pairs
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.verify import verify_pairs
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite

COUNT = 8
CAPTIONS = [f"picture number {number}" for number in range(COUNT)]


def picture(number: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def images(folder: Path, name: str = "{}.jpg") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(number) for number in range(COUNT)]
    for number, own in enumerate(names):
        (folder / own).parent.mkdir(parents=True, exist_ok=True)
        (folder / own).write_bytes(picture(number, "PNG" if own.endswith("png") else "JPEG"))
    return names


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def members(start: int = 0, stop: int = COUNT) -> list[tuple[str, bytes]]:
    return [
        member
        for number in range(start, stop)
        for member in ((f"{number:03d}.jpg", picture(number)), (f"{number:03d}.txt", CAPTIONS[number].encode()))
    ]


def table(path: Path, names: list[str], columns: tuple[str, str] = ("image", "caption"), separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(columns), *(f"{name}{separator}{text}" for name, text in zip(names, CAPTIONS, strict=True))]
    path.write_text("\n".join(lines) + "\n")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def rows(names: list[str], image: str = "image", caption: str = "caption") -> list[dict[str, Any]]:
    return [{image: name, caption: text} for name, text in zip(names, CAPTIONS, strict=True)]


LAYOUTS: dict[str, Callable[[Path], Any]] = {}
LABELLED: dict[str, Callable[[Path], Any]] = {}


def layout(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    LAYOUTS[make.__name__] = make
    return make


def labelled(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    LABELLED[make.__name__] = make
    return make


@layout
def text_beside(folder: Path) -> str:
    for name, text in zip(images(folder), CAPTIONS, strict=True):
        (folder / name).with_suffix(".txt").write_text(text)
    return str(folder)


@layout
def text_beside_in_folders(folder: Path) -> str:
    for number, (name, text) in enumerate(zip(images(folder, "part/{}.png"), CAPTIONS, strict=True)):
        (folder / name).with_suffix(".txt").write_text(text, encoding="utf-16" if number % 2 else "utf-8-sig")
    (folder / "part" / "._0.png").write_bytes(b"left by a mac")
    (folder / ".ipynb_checkpoints").mkdir()
    return str(folder)


@layout
def img2dataset_files(folder: Path) -> str:
    for name, text in zip(images(folder, "00000/00000000{}.jpg"), CAPTIONS, strict=True):
        (folder / name).with_suffix(".txt").write_text(text)
        (folder / name).with_suffix(".json").write_text(json.dumps({"caption": text, "url": "http://x"}))
    parquet(folder / "00000.parquet", rows(["http://x"] * COUNT, "url"))
    (folder / "00000_stats.json").write_text("{}")
    return str(folder)


@layout
def img2dataset_shards(folder: Path) -> str:
    tar(folder / "00000.tar", members())
    parquet(folder / "00000.parquet", rows(["http://x"] * COUNT, "url"))
    (folder / "00000_stats.json").write_text("{}")
    return str(folder)


@layout
def packed_folder(folder: Path) -> str:
    tar(folder / "train-000000.tar", members(0, 4))
    tar(folder / "train-000001.tar", members(4))
    return str(folder)


@layout
def one_tar(folder: Path) -> str:
    tar(folder / "x.tar", members())
    return str(folder / "x.tar")


@layout
def braces(folder: Path) -> str:
    packed_folder(folder)
    return str(folder / "train-{000000..000001}.tar")


@layout
def tar_in_directory_order(folder: Path) -> str:
    own = members()
    tar(folder / "x.tar", [*own[1::2][::-1], ("._000.jpg", b"mac"), ("__MACOSX/000.jpg", b"mac"), *own[::2]])
    return str(folder / "x.tar")


@layout
def concatenated_tars(folder: Path) -> str:
    packed_folder(folder)
    parts = sorted(folder.glob("*.tar"))
    (folder / "all.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return str(folder / "all.tar")


@layout
def tar_with_repeated_keys(folder: Path) -> str:
    own = members()
    tar(folder / "x.tar", [(f"same.{name.partition('.')[2]}", content) for name, content in own])
    return str(folder / "x.tar")


@layout
def gnu_zipped_tar(folder: Path) -> str:
    one_tar(folder)
    with gzip.open(folder / "y.tar.gz", "wb") as target:
        target.write((folder / "x.tar").read_bytes())
    (folder / "x.tar").unlink()
    return str(folder / "y.tar.gz")


@layout
def zipped_pairs(folder: Path) -> str:
    text_beside(folder / "in")
    shutil.make_archive(str(folder / "x"), "zip", folder / "in")
    return str(folder / "x.zip")


@layout
def table_with_zipped_images(folder: Path) -> Any:
    names = images(folder / "in")
    shutil.make_archive(str(folder / "x"), "zip", folder / "in")
    shutil.rmtree(folder / "in")
    table(folder / "t.csv", names)
    return {"name": str(folder / "t.csv"), "images": "x.zip"}


@layout
def table_with_tarred_images(folder: Path) -> Any:
    tar(folder / "images.tar", [(f"deep/{number}.jpg", picture(number)) for number in range(COUNT)])
    table(folder / "captions.csv", [f"{number}.jpg" for number in range(COUNT)])
    return {"name": str(folder), "images": "images.tar"}


@layout
def jsonl_beside(folder: Path) -> str:
    lines = "\n".join(map(json.dumps, rows(images(folder))))
    (folder / "captions.jsonl").write_text(lines, encoding="utf-8-sig")
    return str(folder)


@layout
def json_array(folder: Path) -> str:
    names = images(folder)
    (folder / "captions.json").write_text(json.dumps(rows(names)))
    return str(folder / "captions.json")


@layout
def imagefolder_csv(folder: Path) -> str:
    table(folder / "metadata.csv", images(folder), ("file_name", "text"))
    return str(folder)


@layout
def imagefolder_jsonl_in_a_split(folder: Path) -> str:
    names = images(folder / "train", "sub/{}.jpg")
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows(names, "file_name", "text"))))
    return str(folder / "train")


@layout
def imagefolder_parquet(folder: Path) -> str:
    parquet(folder / "metadata.parquet", rows(images(folder), "file_name", "caption"))
    return str(folder)


@layout
def open_clip_csv(folder: Path) -> str:
    names = [str(folder / "pictures" / name) for name in images(folder / "pictures")]
    table(folder / "train.csv", names, ("filepath", "title"), "\t")
    return str(folder / "train.csv")


@layout
def coco(folder: Path) -> str:
    names = images(folder / "val2017", "{:012d}.jpg")
    content = {
        "images": [{"id": 100 + number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": 100 + n, "caption": text} for n, text in enumerate(CAPTIONS)],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return str(folder / "annotations" / "captions_val2017.json")


@layout
def karpathy(folder: Path) -> Any:
    names = images(folder / "val2014")
    content = [
        {"filepath": "val2014", "filename": name, "split": "train", "sentences": [{"raw": text}]}
        for name, text in zip(names, CAPTIONS, strict=True)
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": content, "dataset": "coco"}))
    return {"name": str(folder / "dataset_coco.json"), "where": {"split": "train"}}


@layout
def karpathy_flickr(folder: Path) -> str:
    names = images(folder / "flickr8k_images")
    content = [
        {"filename": name, "split": "test", "sentences": [{"raw": text}]} for name, text in zip(names, CAPTIONS, strict=True)
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": content}))
    return str(folder / "dataset.json")


@layout
def flickr8k_token(folder: Path) -> str:
    names = images(folder / "Flicker8k_Dataset")
    lines = [f"{name}#{n}\t{text} {n}" for name, text in zip(names, CAPTIONS, strict=True) for n in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    return str(folder)


@layout
def flickr8k_of_kaggle(folder: Path) -> str:
    names = images(folder / "Images")
    lines = [f"{name},{text} {n}" for name, text in zip(names, CAPTIONS, strict=True) for n in range(5)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return str(folder)


@layout
def flickr30k_results(folder: Path) -> str:
    names = images(folder / "flickr30k_images")
    lines = [f"{name}| {n}| {text} {n}" for name, text in zip(names, CAPTIONS, strict=True) for n in range(5)]
    (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines]))
    return str(folder)


@layout
def table_without_header(folder: Path) -> Any:
    lines = [f"{text}\t{name}" for name, text in zip(images(folder), CAPTIONS, strict=True)]
    (folder / "t.tsv").write_text("\n".join(lines))
    return {"name": str(folder / "t.tsv"), "header": ["caption", "image"]}


@layout
def folder_of_parquet(folder: Path) -> str:
    folder.mkdir(parents=True)
    own = [{"image": {"bytes": picture(n), "path": f"{n}.jpg"}, "text": text} for n, text in enumerate(CAPTIONS)]
    parquet(folder / "train-00000-of-00002.parquet", own[:4])
    parquet(folder / "train-00001-of-00002.parquet", own[4:])
    return str(folder)


@layout
def glob_of_parquet(folder: Path) -> str:
    return str(Path(folder_of_parquet(folder)) / "train-*.parquet")


@layout
def parquet_with_a_row_for_each_caption(folder: Path) -> str:
    folder.mkdir(parents=True)
    own = [{"image": {"bytes": picture(n), "path": None}, "text": text} for n, text in enumerate(CAPTIONS)]
    parquet(folder / "all.parquet", [*own, *({**row, "text": f"again {row['text']}"} for row in own)])
    return str(folder)


@layout
def json_of_pandas(folder: Path) -> str:
    import pandas

    pandas.DataFrame(rows(images(folder))).to_json(folder / "t.json")
    return str(folder / "t.json")


@layout
def table_with_base64(folder: Path) -> str:
    import base64

    table(folder / "t.tsv", [base64.b64encode(picture(number)).decode() for number in range(COUNT)], separator="\t")
    return str(folder / "t.tsv")


@layout
def chinese_clip(folder: Path) -> str:
    import base64

    folder.mkdir(parents=True)
    lines = [f"{n}\t{base64.urlsafe_b64encode(picture(n)).decode()}" for n in range(COUNT)]
    (folder / "train_imgs.tsv").write_text("\n".join(lines) + "\n")
    texts = [json.dumps({"text_id": n, "text": text, "image_ids": [n]}) for n, text in enumerate(CAPTIONS)]
    (folder / "train_texts.jsonl").write_text("\n".join(texts))
    return str(folder)


@layout
def a_row_for_each_caption(folder: Path) -> str:
    names = images(folder)
    table(folder / "t.csv", names)
    with (folder / "t.csv").open("a") as lines:
        lines.writelines(f"{name},again {text}\n" for name, text in zip(names, CAPTIONS, strict=True))
    return str(folder / "t.csv")


@layout
def lists_in_cells(folder: Path) -> str:
    import pandas

    own = [[text, f"{text}, again"] for text in CAPTIONS]
    pandas.DataFrame({"image": images(folder), "captions": own}).to_csv(folder / "t.csv", index=False)
    return str(folder / "t.csv")


@labelled
def class_folders(folder: Path) -> str:
    for number, name in enumerate(images(folder / "all")):
        (folder / f"class {number % 2}").mkdir(exist_ok=True)
        shutil.move(folder / "all" / name, folder / f"class {number % 2}" / name)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "empty").mkdir()
    (folder / "all").rmdir()
    return str(folder)


@labelled
def class_folders_of_a_split(folder: Path) -> Any:
    class_folders(folder / "train")
    class_folders(folder / "test")
    return {"name": "class_folders", "path": str(folder), "split": "train"}


@labelled
def class_folders_with_names(folder: Path) -> str:
    class_folders(folder)
    (folder / "class 0").rename(folder / "n01440764")
    (folder / "class 1").rename(folder / "n01443537")
    (folder / "LOC_synset_mapping.txt").write_text("n01440764 class 0, Tinca tinca\nn01443537 class 1, Carassius auratus\n")
    return str(folder)


@labelled
def class_folders_in_a_zip(folder: Path) -> str:
    class_folders(folder / "in")
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for file in sorted((folder / "in").rglob("*.jpg")):
            archive.write(file, file.relative_to(folder / "in"))
    return str(folder / "x.zip")


@labelled
def class_in_the_name(folder: Path) -> Any:
    folder.mkdir(parents=True)
    for number in range(COUNT):
        (folder / f"class {number % 2}_{number:03d}.jpg").write_bytes(picture(number))
    return {"name": "class_in_name", "path": str(folder)}


@labelled
def column_of_a_label(folder: Path) -> Any:
    names = images(folder)
    lines = [f"{name},class {number % 2}" for number, name in enumerate(names)]
    (folder / "t.csv").write_text("\n".join(["image,label", *lines]))
    return {"name": str(folder / "t.csv"), "caption_column": None, "label_column": "label"}


@labelled
def shards_with_classes(folder: Path) -> str:
    tar(
        folder / "0.tar",
        [
            (f"{n}.{kind}", picture(n) if kind == "jpg" else str(n % 2).encode())
            for n in range(COUNT)
            for kind in ("jpg", "cls")
        ],
    )
    return str(folder)


def measured(spec: Any, folder: Path, module: ClipModule, **settings: Any) -> dict[str, float]:
    """Figures of one protocol, as `evaluate` has them."""
    of_set = {"name": spec} if isinstance(spec, str) else dict(spec)
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False}
    suite = Suite({"it": {**of_set, **settings}}, output=str(folder / "evaluation"), batch_size=4, trainer=quiet)
    outcome = run_suite(suite, [PredictorModel(module.predictor)])
    assert not outcome.failures, outcome.failures
    (results,) = outcome.results["it"].values()
    return dict(results["model"].metrics)


def check(source: PairSource, folder: Path, captions: Any) -> ClipModule:
    """The ways in which data is used; the module that was trained."""
    assert len(source) == COUNT
    found = inspect_pairs(source)
    assert (found.pairs, found.looked_at, dict(found.broken), found.one_tone) == (COUNT, COUNT, {}, [])
    assert found.sizes == {(48, 40): COUNT} and found.duplicate_images == 0
    assert verify_pairs(source).reasons.keys() <= {"key occurs more than once"}
    packed = pack_shards(source, str(folder / "packed" / "x-%03d.tar"))
    again = pair_sources.build(str(folder / "packed"))
    assert packed.pairs == COUNT and not packed.dropped
    for index in range(COUNT):
        one, other = source[index], again[index]
        assert one.captions == other.captions and one.label == other.label and one.image == other.image
    data = ClipDataModule(source, source, local_batch_size=4, captions=captions)
    module, trainer = small_module(), small_trainer(folder, max_steps=2)
    trainer.fit(module, data)
    assert trainer.global_step == 2 and data.skipped["train"].total() == 0
    features = [
        batch.features["image"]
        for batch in small_trainer(folder).predict(module, ClipDataModule(test=source, local_batch_size=4))
    ]
    assert sum(map(len, features)) == COUNT
    return module


@pytest.mark.parametrize("name", LAYOUTS)
def test_pairs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))
    spec = LAYOUTS[name](tmp_path / "data")
    source = pair_sources.build(spec)
    texts = [source[index].captions for index in range(len(source))]
    firsts = [own[0] for own in texts]
    assert sorted(text if text in CAPTIONS else text.removesuffix(" 0") for text in firsts) == CAPTIONS
    assert {len(own) for own in texts} in ({1}, {2}, {5})
    pictures = {picture(number, kind) for number in range(COUNT) for kind in ("JPEG", "PNG")}
    assert {source[index].image for index in range(COUNT)} <= pictures
    assert source.captions(3) == texts[3] and source.place(0)
    module = check(source, tmp_path, None)
    figures = measured(spec, tmp_path, module, retrieval=True, protocols=["retrieval"])
    assert figures["text_to_image/recall@10"] == 1.0 >= figures["image_to_text/recall@10"] > 0  # of 8 images


@pytest.mark.parametrize("name", LABELLED)
def test_classes(name: str, tmp_path: Path) -> None:
    spec, module = LABELLED[name](tmp_path / "data"), small_module()
    source = pair_sources.build(spec)
    assert [source.label(index) for index in range(COUNT)] == [source[index].label for index in range(COUNT)]
    assert sorted(source[index].label for index in range(COUNT)) == [0] * 4 + [1] * 4  # type: ignore[type-var]
    if source.class_names:
        assert list(source.class_names) == ["class 0", "class 1"]
        captions = {"name": "template", "templates": ["a photo of a {}."]}
        module = check(source, tmp_path, captions)
    words = {} if source.class_names else {"class_names": ["class 0", "class 1"]}
    assert 0 <= measured(spec, tmp_path, module, protocols=["zero_shot"], **words)["top1"] <= 1


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda folder: [images(folder / part) for part in ("train", "test")],
                "a folder for each split, not for each class: name one",
            ),
            (lambda folder: images(folder / "images"), "in the one folder 'images' and no text that was found: give a table"),
            (lambda folder: images(folder), "images without text or class.*class_in_name"),
            (lambda folder: (folder / "a").mkdir(parents=True), "holds nothing that is known as pairs"),
        ],
        ids=["splits", "one folder", "flat", "empty"],
    )
    def test_folders(self, tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
        make(tmp_path / "data")
        with pytest.raises(InputError, match=message):
            pair_sources.build(str(tmp_path / "data"))

    def test_pictures_of_a_phone(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "IMG_0001.HEIC").write_bytes(b"heic")
        with pytest.raises(InputError, match=r"holds images that are not read \(1 .heic\): convert them to jpg or png"):
            pair_sources.build(str(tmp_path))
        (tmp_path / "a.jpg").write_bytes(picture(0))
        (tmp_path / "a.txt").write_text("a picture")
        assert len(pair_sources.build(str(tmp_path))) == 1 and "1 .heic files are no images that can be read" in caplog.text

    def test_class_names(self, tmp_path: Path) -> None:
        class_folders(tmp_path / "data")
        (tmp_path / "names.json").write_text('{"class 0": "cat"}')
        spec = {"name": "class_folders", "path": str(tmp_path / "data"), "names": str(tmp_path / "names.json")}
        with pytest.raises(InputError, match=r"has no name for class folder 'class 1' \(1 are missing\): add it"):
            pair_sources.build(spec)
        (tmp_path / "names.json").write_text('["cat"]')
        with pytest.raises(InputError, match="has 1 names for 2 class folders: give one for each"):
            pair_sources.build(spec)
        (tmp_path / "names.json").write_text('{"0": ["class 0", "cat"], "1": ["class 1", "dog"]}')
        assert list(pair_sources.build(spec).class_names) == ["cat", "dog"]

    def test_json_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / "t.json").write_text('{"a": 1}')
        with pytest.raises(InputError, match="is a mapping of a: it must be a list of objects, COCO's captions"):
            pair_sources.build(str(tmp_path / "t.json"))
        (tmp_path / "t.json").write_text('{"images": [], "annotations": [{"bbox": []}]}')
        with pytest.raises(InputError, match="annotations of .* have no 'caption': take the file with captions"):
            pair_sources.build(str(tmp_path / "t.json"))
        (tmp_path / "t.json").write_text("{")
        with pytest.raises(InputError, match="is no JSON"):
            pair_sources.build(str(tmp_path / "t.json"))


def test_there_are_forty() -> None:
    assert len(LAYOUTS) + len(LABELLED) >= 40
