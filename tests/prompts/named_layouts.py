"""Small copies of the layouts of sets by name, as their authors hand them out: pictures whose brightness tells them apart."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data.test_shards import tar_bytes
from PIL import Image

__all__ = ["LAYOUTS", "grey", "put", "shards"]


def grey(value: int, kind: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def shards(place: Path, names: list[str], kind: str = "cls") -> None:
    """CLIP_benchmark's folder: one picture of each class, or captions."""
    members = {}
    for number in range(len(names) or 2):
        members[f"{number}.png"] = grey(10 * number)
        members[f"{number}.{kind}"] = b"a dog\na cat" if kind == "txt" else str(number).encode()
    put(place / "test/0.tar", tar_bytes(members))
    put(place / "test/nshards.txt", "1")
    if kind == "txt":
        put(place / "dataset_type.txt", "retrieval")
    put(place / "classnames.txt", "\n".join(names))
    put(place / "zeroshot_classification_templates.txt", "a photo of {c}.")


def birdsnap(root: Path) -> None:
    for value, split in enumerate(("train", "test")):
        put(root / f"birdsnap/{split}/Acadian_Flycatcher/x.jpg", grey(10 * value, "JPEG"))
        put(root / f"birdsnap/{split}/Zone_tailed_Hawk/x.jpg", grey(10 * value + 50, "JPEG"))


def resisc45(root: Path) -> None:
    for label, folder in enumerate(("airplane", "baseball_diamond")):
        for number in range(72):
            put(root / f"NWPU-RESISC45/{folder}/{folder}_{number:03d}.jpg", grey(100 * label + number, "JPEG"))


def imagenet(root: Path) -> None:
    for value, split in enumerate(("train", "val")):
        put(root / f"imagenet/{split}/n01440764/a.JPEG", grey(10 * value, "JPEG"))
        put(root / f"imagenet/{split}/n01514859/b.JPEG", grey(10 * value + 50, "JPEG"))


def by_synset(folder: str, *synsets: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for value, synset in enumerate(synsets):
            put(root / folder / synset / "x.jpg", grey(10 * value, "JPEG"))

    return write


def objectnet(root: Path) -> None:
    place = root / "objectnet-1.0"
    framed = Image.new("RGB", (12, 8), (255, 0, 0))
    framed.paste((70, 70, 70), (1, 1, 11, 7))
    buffer = io.BytesIO()
    framed.save(buffer, "PNG")
    put(place / "images/bicycle/x.png", buffer.getvalue())
    put(place / "images/alarm_clock/x.png", grey(20))
    put(place / "images/backpack_only_here/x.png", grey(90))
    put(place / "mappings/folder_to_objectnet_label.json", json.dumps(
        {"bicycle": "Bicycle", "alarm_clock": "Alarm clock", "backpack_only_here": "Only here"}
    ))  # fmt: skip
    put(place / "mappings/objectnet_to_imagenet_1k.json", json.dumps(
        {"Bicycle": "tandem bicycle; mountain bike", "Alarm clock": "analog clock"}
    ))  # fmt: skip
    put(place / "mappings/pytorch_to_imagenet_2012_id.json", json.dumps({"444": 0, "671": 1, "409": 2}))
    put(place / "mappings/imagenet_to_label_2012_v2", "tandem bicycle\nmountain bike\nanalog clock\n")


_VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)


def voc2007(root: Path) -> None:
    place = root / "VOCdevkit/VOC2007"
    marks = {"dog": (1, -1), "person": (1, 1), "sofa": (0, -1)}
    for value, split in enumerate(("train", "val", "test")):
        for name in _VOC.split():
            first, second = marks.get(name, (-1, -1))
            put(place / f"ImageSets/Main/{name}_{split}.txt", f"{value}00001 {first:2d}\n{value}00002 {second:2d}\n")
        put(place / f"JPEGImages/{value}00001.jpg", grey(10 * value, "JPEG"))
        put(place / f"JPEGImages/{value}00002.jpg", grey(10 * value + 50, "JPEG"))


def kitti(root: Path) -> None:
    place = root / "Kitti/raw/training"
    notes = {
        "000000": "Car 0 0 0 0 0 0 0 0 0 0 0 0 5.0 0\nVan 0 0 0 0 0 0 0 0 0 0 0 0 30 0\n",
        "000001": "Truck 0 0 0 0 0 0 0 0 0 0 0 0 7.9 0\n",
        "000002": "Pedestrian 0 0 0 0 0 0 0 0 0 0 0 0 2.0 0\n",
        "000003": "DontCare -1 -1 -10 0 0 0 0 -1 -1 -1 -1000 -1000 -1000 -10\n",
    }
    for value, (name, note) in enumerate(notes.items()):
        put(place / f"image_2/{name}.png", grey(10 * value))
        put(place / f"label_2/{name}.txt", note)


def clevr(root: Path) -> None:
    place = root / "clevr/CLEVR_v1.0"
    for value, split in enumerate(("train", "val")):
        scenes = [
            {"image_filename": f"CLEVR_{split}_{number:06d}.png", "objects": [{}] * (3 + 7 * number)} for number in range(2)
        ]
        put(place / f"scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))
        for number in range(2):
            put(place / f"images/{split}/CLEVR_{split}_{number:06d}.png", grey(100 * value + 10 * number))


def hateful_memes(root: Path) -> None:
    for value, split in enumerate(("train", "dev_seen")):
        rows = [{"id": label, "img": f"img/{value}{label}.png", "label": label, "text": "x"} for label in (0, 1)]
        put(root / f"hateful_memes/{split}.jsonl", "\n".join(map(json.dumps, rows)))
        for label in (0, 1):
            put(root / f"hateful_memes/img/{value}{label}.png", grey(100 * value + 10 * label))


def kinetics700(root: Path) -> None:
    for value, split in enumerate(("train", "val")):
        put(root / f"kinetics700/{split}/abseiling/x.jpg", grey(10 * value, "JPEG"))
        put(root / f"kinetics700/{split}/zumba/x.jpg", grey(10 * value + 50, "JPEG"))


def karpathy(folder: str, file: str, pictures: str, below: str = "") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        images = []
        for value, split in enumerate(("train", "test", "test")):
            sentences = [{"raw": f"caption {value} {number}"} for number in range(5)]
            entry = {"filename": f"{value}.jpg", "split": split, "sentences": sentences}
            images.append({**entry, "filepath": below} if below else entry)
            put(root / folder / pictures / below / f"{value}.jpg", grey(10 * value, "JPEG"))
        put(root / folder / file, json.dumps({"images": images, "dataset": folder}))

    return write


def crossmodal3600(root: Path) -> None:
    rows = []
    for value in range(2):
        words = {language: {"caption": [f"{language} {value} 0", f"{language} {value} 1"]} for language in ("en", "zh", "no")}
        rows.append({"image/key": f"k{value}", "image/locale": "en", **words})
        put(root / f"xm3600/images/k{value}.jpg", grey(10 * value, "JPEG"))
    put(root / "xm3600/captions.jsonl", "\n".join(map(json.dumps, rows)))


def chinese(folder: str, split: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        lines = [f"{value}\t{base64.b64encode(grey(10 * value, 'JPEG')).decode()}" for value in (1, 2)]
        put(root / folder / f"{split}_imgs.tsv", "\n".join(lines) + "\n")
        texts = [{"text_id": value, "text": f"图{value}", "image_ids": [value]} for value in (1, 2)]
        put(root / folder / f"{split}_texts.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in texts) + "\n")

    return write


def winoground(root: Path) -> None:
    rows = []
    for number, tag in enumerate(("Object", "Relation")):
        names = {f"image_{side}": f"ex_{number}_img_{side}" for side in (0, 1)}
        rows.append({"id": number, **names, "caption_0": f"a {number} b", "caption_1": f"b {number} a", "tag": tag})
        for side in (0, 1):
            put(root / f"winoground/data/images/ex_{number}_img_{side}.png", grey(20 * number + 10 * side))
    put(root / "winoground/data/examples.jsonl", "\n".join(map(json.dumps, rows)))


def sugarcrepe(root: Path) -> None:
    for value, kind in enumerate(("add_att", "swap_obj")):
        row = {"filename": f"{value}.jpg", "caption": f"right {value}", "negative_caption": f"wrong {value}"}
        put(root / f"sugarcrepe/{kind}.json", json.dumps({"7": row}))
        put(root / f"coco/val2017/{value}.jpg", grey(10 * value, "JPEG"))


def aro(kind: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        pixels = np.zeros((8, 12, 3), dtype=np.uint8)
        pixels[2:6, 3:9] = 80
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        put(root / "aro/images/1.jpg", buffer.getvalue())
        box = {"bbox_x": 3, "bbox_y": 2, "bbox_w": 6, "bbox_h": 4}
        captions = {"true_caption": "the dog is on the mat", "false_caption": "the mat is on the dog"}
        of = {"relation_name": "on"} if kind == "relation" else {"attributes": ["red", "wet"]}
        put(root / f"aro/visual_genome_{kind}.json", json.dumps([{"image_path": "1.jpg", **box, **captions, **of}]))

    return write


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "aro_attribution": aro("attribution"),
    "aro_relation": aro("relation"),
    "birdsnap": birdsnap,
    "clevr_counts": clevr,
    "coco_captions": karpathy("coco", "dataset_coco.json", "images", "val2014"),
    "coco_cn": chinese("COCO-CN", "test"),
    "crossmodal3600": crossmodal3600,
    "flickr30k": karpathy("flickr30k", "dataset_flickr30k.json", "flickr30k-images"),
    "flickr30k_cn": chinese("Flickr30k-CN", "test"),
    "hateful_memes": hateful_memes,
    "imagenet": imagenet,
    "imagenet_a": by_synset("imagenet-a", "n01498041", "n02206856"),
    "imagenet_r": by_synset("imagenet-r", "n01443537", "n02206856"),
    "imagenet_sketch": by_synset("sketch", "n01440764", "n15075141"),
    "imagenet_v2": by_synset("imagenetv2-matched-frequency-format-val", "0", "10", "999"),
    "kinetics700": kinetics700,
    "kitti_distance": kitti,
    "muge": chinese("MUGE", "valid"),
    "objectnet": objectnet,
    "resisc45": resisc45,
    "sugarcrepe": sugarcrepe,
    "voc2007": voc2007,
    "winoground": winoground,
}
