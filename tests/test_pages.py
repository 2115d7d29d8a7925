"""The commands on the pages about data do what the pages say."""

from __future__ import annotations

import base64
import json
import random
import re
import shlex
from pathlib import Path

import pytest
import yaml
from data.test_shards import jpeg, pairs, tar_bytes
from pictures import encoded, gradient
from small import write_folder

from lightning_clip import ClipDataModule
from lightning_clip.cli import main
from lightning_clip.curation import CurationSettings, pair_filters

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    name: (ROOT / f"docs/recipes/{name}.md").read_text()
    for name in ("own_images", "img2dataset", "chinese_clip_data", "curate")
}
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```console\n(.*?)```", "".join(PAGES.values()), re.S))


def run(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in this process, one epoch in the place of all."""
    monkeypatch.chdir(folder)
    for command in BLOCKS[block].strip().splitlines():
        arguments = shlex.split(command)[1:]
        if arguments[0] == "fit":
            arguments += ["--trainer.max_epochs=1", "--model.training.optimizer.warmup_steps=1", "--trainer.accelerator=cpu"]
        assert main(arguments) == 0, command


def sources(page: str) -> list[ClipDataModule]:
    return [ClipDataModule(**yaml.safe_load(block)["data"]) for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.S)]


@pytest.mark.parametrize("block", ["captions", "pack"])
def test_own_images(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "photos", count=24)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    run(block, tmp_path, monkeypatch)
    assert (tmp_path / ("photos.html" if block == "captions" else "shards/train-000000.tar")).exists()


def test_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "sea_lion"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / "animals" / name / "1.jpg").write_bytes(jpeg(1))
    monkeypatch.chdir(tmp_path)
    (data,) = sources("own_images")
    assert data.captions is not None
    pair = data.source("train")[1]
    assert data.captions(pair, random.Random(0)) in ("a photo of a sea lion.", "a picture of a sea lion.")


def test_img2dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "laion").mkdir()
    (tmp_path / "laion/00000.tar").write_bytes(tar_bytes(pairs(0, 12)))
    (tmp_path / "laion/00000_stats.json").write_text(json.dumps({"count": 12, "successes": 12}))
    run("img2dataset", tmp_path, monkeypatch)
    assert [len(data.source("train")) for data in sources("img2dataset")] == [12]


def test_curate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and titles of the same columns in the place of fashion_small."""
    rows, images = [], {}
    for number in range(60):
        split = "test" if number % 10 == 9 else "train"
        rows.append(
            {"image": f"{number}.jpg", "split": split, "title": f"Brand Men {('Red', 'Blue')[number % 2]} Shirt {number}"}
        )
        images[f"{number}.jpg"] = encoded(gradient(60 + number, 80), "JPEG")
    (tmp_path / "fashion_small").mkdir()
    (tmp_path / "fashion_small/captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "fashion_small/images.tar").write_bytes(tar_bytes(images))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("LIGHTNING_CLIP_DATA", str(tmp_path))
    run("curate", tmp_path, monkeypatch)
    report = json.loads((tmp_path / "runs/curation/fashion_small/report.json").read_text())
    assert report["pairs"] == 54 and report["kept"] == 54 - sum(report["dropped"].values())


def test_the_steps_of_the_page_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").touch()
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["curate"], re.S)
    settings = CurationSettings.parse(yaml.safe_load(block))
    assert len([pair_filters.build(spec) for spec in settings.filters]) == 5 and settings.balance is not None


def test_chinese_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "MUGE").mkdir()
    for split in ("train", "valid"):
        lines = [f"{number}\t{base64.urlsafe_b64encode(jpeg(number)).decode()}\n" for number in range(5)]
        (tmp_path / f"MUGE/{split}_imgs.tsv").write_text("".join(lines))
        texts = [{"text_id": number, "text": f"第{number}", "image_ids": [number]} for number in range(5)]
        (tmp_path / f"MUGE/{split}_texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    run("chinese_clip", tmp_path, monkeypatch)
    (data,) = sources("chinese_clip_data")
    assert data.source("val").captions(3) == ("第3",) and (tmp_path / "muge/valid-000000.tar").exists()
