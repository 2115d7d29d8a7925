"""`start`: a recipe for every layout there is, that parses and builds; its choices, and a run by it."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from corners import corners
from PIL import Image
from small import save_checkpoint

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.commands.recipe import read_recipe
from lightning_clip.data.inspect import Inspection
from lightning_clip.data.picture_kind import PictureKind, picture_kind
from lightning_clip.planning import first_choices
from lightning_clip.planning.first_choices import LADDER, choose
from lightning_clip.planning.first_look import Look, look_at
from lightning_clip.planning.first_splits import Stages, stages_of

_SPEC = importlib.util.spec_from_file_location("layouts", Path(__file__).parents[1] / "data/test_layouts.py")
assert _SPEC is not None and _SPEC.loader is not None
layouts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(layouts)


@pytest.fixture(autouse=True)
def _speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not measured again and again; and the machine is the same everywhere."""
    monkeypatch.setattr(first_choices, "measured_speed", lambda device: 2e10)


def started(data: Any, folder: Path, *more: str) -> dict[str, Any]:
    output = folder / "recipe.yaml"
    assert main(["start", str(data), "--output", str(output), "--minutes", "1", "--device", "cpu", *more]) == 0
    found: dict[str, Any] = yaml.safe_load(output.read_text())
    return found


def arguments_of(spec: Any) -> tuple[str, list[str]]:
    """What a user gives for a source that needs more than its path."""
    if isinstance(spec, str):
        return spec, []
    settings = dict(spec)
    more = [f"--images={settings.pop('images')}"] if "images" in settings else []
    more += [f"--label-column={settings.pop('label_column')}"] if "label_column" in settings else []
    settings.pop("caption_column", None)
    more += [f"--where={key}={value}" for key, value in settings.pop("where", {}).items()]
    name = settings.pop("name")
    path = settings.pop("path", None)
    if path is not None and name == "class_folders":
        return path, []
    more += [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    return (name if path is None else path), more


QUICK = ("text_beside", "packed_folder", "table_with_zipped_images", "karpathy_flickr", "class_folders", "column_of_a_label")


@pytest.mark.parametrize("name", corners([*layouts.LAYOUTS, *layouts.LABELLED], *QUICK))
def test_every_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_CLIP_CACHE", str(tmp_path / "cache"))
    make = {**layouts.LAYOUTS, **layouts.LABELLED}[name]
    path, more = arguments_of(make(tmp_path / "data"))
    if name == "class_in_the_name":  # nothing says that names hold classes
        assert main(["start", path, "--output", str(tmp_path / "recipe.yaml")]) == 2
        return
    if name == "shards_with_classes":  # numbers without names
        assert main(["start", path, "--output", str(tmp_path / "recipe.yaml")]) == 2
        return
    found = started(path, tmp_path, *more)
    recipe = read_recipe([str(tmp_path / "recipe.yaml")], [])
    parts = ("train", "test") if name == "class_folders_of_a_split" else ("train", "val", "test")  # as it is divided
    sizes = {part: len(recipe.data.source(part)) for part in parts}
    assert sum(sizes.values()) == layouts.COUNT * (1 + (name == "class_folders_of_a_split")) and min(sizes.values()) > 0
    assert found["data"]["local_batch_size"] <= sizes["train"]
    recipe.module.read_data(recipe.data)
    assert recipe.module.model.tower("image").image_size == 48  # pictures are 48 x 40
    assert (found["data"].get("captions") is not None) == (name in layouts.LABELLED)


def test_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    started(layouts.text_beside(tmp_path / "data"), tmp_path)
    said = capsys.readouterr().out
    assert "lightning-clip fit --config" in said and "about 1 minute on cpu" in said and said.count("omitted") == 0
    extra = [
        "--trainer.max_steps=2",
        "--trainer.accelerator=cpu",
        "--data.num_workers=0",
        "--trainer.enable_progress_bar=false",
    ]
    assert main(["fit", "--config", "recipe.yaml", *extra]) == 0
    assert (tmp_path / "runs/recipe/last.ckpt").exists() and (tmp_path / "runs/recipe/report.html").exists()


class TestTables:
    def table(self, folder: Path, rows: list[dict[str, Any]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(rows)):
            (folder / f"{number}.jpg").write_bytes(layouts.picture(number))
        lines = [json.dumps({"image": f"{number}.jpg", **row}, ensure_ascii=False) for number, row in enumerate(rows)]
        (folder / "notes.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return folder / "notes.jsonl"

    def test_patients_stay_together(self, tmp_path: Path) -> None:
        rows = [{"patient_id": n % 9, "clinical_notes": f"a note about case {n}", "url": "http://a b"} for n in range(30)]
        found = started(self.table(tmp_path, rows), tmp_path)["data"]
        assert found["train"]["split"]["by"] == "patient_id" and found["train"]["caption_column"] == "clinical_notes"

    def test_a_column_that_says_it(self, tmp_path: Path) -> None:
        rows = [{"split": ("train", "train", "dev", "test")[n % 4], "caption": f"a dog {n}"} for n in range(16)]
        found = started(self.table(tmp_path, rows), tmp_path)["data"]
        assert [found[part]["where"] for part in ("train", "val", "test")] == [{"split": s} for s in ("train", "dev", "test")]
        table = str(tmp_path / "notes.jsonl")
        stages = stages_of({"name": table, "where": {"caption": [f"a dog {n}" for n in range(12)]}})
        assert stages.train["where"].keys() == {"caption", "split"} and len(stages.source) == 6
        assert stages_of({"name": table, "where": {"split": "train"}}).train["split"]["test"] > 0

    def test_repeated_texts_are_positives(self, tmp_path: Path) -> None:
        rows = [{"caption": f"a shirt of kind {n % 5}"} for n in range(40)]
        assert started(self.table(tmp_path, rows), tmp_path)["model"]["objective"][0] == {"name": "softmax", "duplicates": True}
        assert "of the captions repeat another" in (tmp_path / "recipe.yaml").read_text()

    def test_reports_are_shown_sentence_by_sentence(self, tmp_path: Path) -> None:
        rows = [{"caption": f"Finding {n} is small. " * 12} for n in range(12)]
        assert started(self.table(tmp_path, rows), tmp_path)["data"]["captions"] == "sentence"

    def test_sides_forbid_mirrors(self, tmp_path: Path) -> None:
        sided = started(self.table(tmp_path / "a", [{"caption": f"a dog left of {n}"} for n in range(12)]), tmp_path)
        plain = started(self.table(tmp_path / "b", [{"caption": f"a dog near {n}"} for n in range(12)]), tmp_path)
        flips = [found["model"]["towers"]["image"]["transform"]["flip"] for found in (sided, plain)]
        assert flips == [0.0, 0.5]

    def test_another_script_gets_a_vocabulary(self, tmp_path: Path) -> None:
        rows = [{"zh": [f"草地上的第{n}只狗", f"一只狗{n}"], "en": f"dog number {n}"} for n in range(12)]
        found = started(self.table(tmp_path, rows), tmp_path, "--caption-column", "zh")
        assert Path(found["model"]["tokenizer"]["name"]).exists()
        assert found["model"]["objective"][0] == {"name": "several_texts", "count": 1}
        read_recipe([str(tmp_path / "recipe.yaml")], [])

    def test_a_label_beside_captions(self, tmp_path: Path) -> None:
        rows = [{"title": f"nice thing {n}", "kind": ("shoe", "hat")[n % 2]} for n in range(24)]
        found = started(self.table(tmp_path, rows), tmp_path, "--label-column", "kind")
        assert found["data"]["train"]["caption_column"] == {"title": 1, "kind": 1}
        (classes,) = [
            entry["init_args"]["datasets"]["classes"]
            for entry in found["trainer"]["callbacks"]
            if entry["class_path"].endswith("ZeroShotClassification")
        ]
        assert classes["label_column"] == "kind" and classes["split"]["part"] == "val" and classes["caption_column"] is None

    def test_weights_to_adapt(self, tmp_path: Path) -> None:
        rows = [{"caption": f"a dog number {n}"} for n in range(24)]
        weights = str(save_checkpoint(tmp_path / "base.ckpt"))
        found = started(self.table(tmp_path / "data", rows), tmp_path, "--weights", weights)["model"]
        assert found["pretrained"] == weights and found["training"]["adapt"]["image"]["lock"] and "image_encoder" not in found
        recipe = read_recipe([str(tmp_path / "recipe.yaml")], [])
        recipe.module.read_data(recipe.data)
        assert not any(weight.requires_grad for weight in recipe.module.model.tower("image").parameters())


class TestPictures:
    def folder(self, path: Path, values: np.ndarray, ending: str = "png") -> Path:
        path.mkdir(parents=True, exist_ok=True)
        for number in range(10):
            (path / f"{number}.{ending}").write_bytes(self.file(values // (1 + number % 2), ending))
            (path / f"{number}.txt").write_text(f"a scan number {number}")
        return path

    def file(self, values: np.ndarray, ending: str) -> bytes:
        buffer = io.BytesIO()
        if ending == "tif":
            import tifffile

            tifffile.imwrite(buffer, values, planarconfig="contig", photometric="minisblack")
        else:
            Image.fromarray(values).save(buffer, "PNG")
        return buffer.getvalue()

    def test_more_than_8_bits(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 3000, (40, 40), dtype=np.uint16)
        low, high = started(self.folder(tmp_path / "d", values), tmp_path)["model"]["towers"]["image"]["transform"]["window"]
        assert 0 <= low < 100 and 2900 < high <= 3000

    def test_bands(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 3000, (40, 40, 5), dtype=np.uint16)
        found = started(self.folder(tmp_path / "d", values, "tif"), tmp_path)["model"]["towers"]["image"]["transform"]
        assert found["bands"] == [1, 2, 3] and found["percentiles"] == [2, 98]
        assert picture_kind((tmp_path / "d/0.tif").read_bytes()) == PictureKind("bands", 5, False, *_edges(values))

    def test_kinds(self) -> None:
        grey = np.full((8, 8, 3), 70, np.uint8)
        assert picture_kind(self.file(grey, "png")).form == "grey"
        grey[..., 0] = 200
        assert picture_kind(self.file(grey, "png")) == PictureKind("colour")
        for broken in (b"text", b"", b"\x89PNG\r\n\x1a\n and nothing", b"II*\0 nothing"):
            with pytest.raises(ValueError, match=r"."):
                picture_kind(broken)


def _edges(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


class TestChoices:
    def look(self, pairs: int, side: int = 400) -> Look:
        inspection = Inspection(pairs, captions=pairs, captions_per_image=(1, 1))
        stages = Stages({}, None, None, None, "")  # type: ignore[arg-type]
        return Look(stages, inspection, PictureKind("colour"), side, [], 0.0, 0.0, 0.0, [], [])

    @pytest.mark.slow
    def test_more_time_and_faster_machines_take_larger_towers(self) -> None:
        sizes = [choose(self.look(5000), 20, "cpu", speed, 32, 2).rung.image_size for speed in (1e9, 2e10, 1e12, 1e14)]
        assert sizes == sorted(sizes) and sizes[0] == 32 and sizes[-1] == 224
        longer = [choose(self.look(5000), minutes, "cpu", 2e10, 32, 2) for minutes in (2, 60, 2000)]
        assert [one.rung.image_size for one in longer] == sorted(one.rung.image_size for one in longer)

    def test_the_time_is_kept(self) -> None:
        for pairs in (3000, 100_000):
            for speed in (5e10, 1e12, 5e13):
                found = choose(self.look(pairs), 30, "cuda", speed, 32, 8)
                assert found.epochs == 1 or pairs * found.minutes_per_pair <= 30.01

    def test_small_pictures_and_few_pairs(self) -> None:
        few = choose(self.look(40, side=30), 30, "cpu", 1e14, 32, 2)
        assert few.rung == LADDER[0] and few.epochs == 40 and few.batch_size == 16
        assert choose(self.look(500), 30, "cpu", 1e12, 32, 2).batch_size == 48
        assert choose(self.look(3), 30, "cpu", 1e12, 32, 1).batch_size == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--minutes", "0"], "--minutes 0 must be above 0"),
            (["--output", "recipe.txt"], "--output 'recipe.txt' must end in .yaml"),
            (["--caption-column", "txet"], "has no column 'txet'"),
        ],
    )
    def test_arguments(self, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = layouts.jsonl_beside(tmp_path / "data")
        assert main(["start", path, "--output", str(tmp_path / "recipe.yaml"), *more]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "recipe.yaml").exists()

    def test_broken_pictures(self, tmp_path: Path) -> None:
        for number in range(6):
            (tmp_path / f"{number}.jpg").write_bytes(b"nothing")
            (tmp_path / f"{number}.txt").write_text("a dog")
        with pytest.raises(InputError, match=r"none of the pictures .* can be used"):
            look_at({"name": str(tmp_path)})

    def test_too_few_to_be_divided(self, tmp_path: Path) -> None:
        for number in range(3):
            (tmp_path / f"{number}.jpg").write_bytes(layouts.picture(number))
            (tmp_path / f"{number}.txt").write_text("a dog")
        assert stages_of({"name": str(tmp_path)}).why.startswith("not divided")


def test_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1e8 < first_choices.measured_speed("cpu") < 1e14
