"""Plain Datasets and DataLoaders: any usual form of an image with texts trains as a `ClipDataModule` of its own would."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from corners import corners
from lightning.pytorch.tuner import Tuner
from PIL import Image
from small import small_data, small_module, small_trainer
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_clip import ClipDataModule, InputError, Pair
from lightning_clip.data import pair_sources
from lightning_clip.data.items import image_of_item, pair_of_item

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def png(pixels: Any = PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class TestImages:
    @pytest.mark.parametrize(
        "image",
        [
            Image.fromarray(PIXELS),
            PIXELS,
            PIXELS.astype(np.int64),
            (PIXELS / 255).astype(np.float32),
            PIXELS / 255,
            torch.from_numpy(PIXELS).permute(2, 0, 1),
            torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
            torch.from_numpy(PIXELS),
        ],
        ids=["pil", "numpy", "int64", "float32", "float64", "tensor", "float tensor", "hwc tensor"],
    )
    def test_pixels(self, image: Any) -> None:
        found = image_of_item(image)
        assert isinstance(found, torch.Tensor) and found.dtype == torch.uint8
        assert torch.equal(found, torch.from_numpy(PIXELS).permute(2, 0, 1))

    def test_bytes_and_paths(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png())
        for image in (png(), bytearray(png()), str(tmp_path / "a.png"), tmp_path / "a.png"):
            assert image_of_item(image) == png()

    def test_grey(self) -> None:
        for image in (PIXELS[:, :, 0], torch.from_numpy(PIXELS[:, :, 0])[None], Image.fromarray(PIXELS[:, :, 0])):
            assert torch.equal(image_of_item(image), torch.from_numpy(PIXELS[:, :, 0]).expand(3, -1, -1))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (torch.zeros(3, 4, 4) - 1, "floats outside of 0 to 1: the model normalises pixels itself"),
            (torch.full((3, 4, 4), torch.nan), "floats outside of 0 to 1"),
            (torch.full((3, 4, 4), 300), "integers outside of 0 to 255"),
            (torch.zeros(2, 3, 4, 4), r"the shape \(2, 3, 4, 4\), not \(3, H, W\)"),
            (torch.zeros(5), r"the shape \(5,\)"),
            (3.5, "image is float, not a picture, bytes, a path or pixels"),
        ],
    )
    def test_mistakes(self, image: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            image_of_item(image)


class TestItems:
    @pytest.mark.parametrize(
        ("item", "captions", "label"),
        [
            ((PIXELS, "a dog"), ("a dog",), None),
            ([PIXELS, "a dog"], ("a dog",), None),
            ((PIXELS, ["a dog", "a pet"]), ("a dog", "a pet"), None),
            ((PIXELS, 3), (), 3),
            ((PIXELS, torch.tensor(3)), (), 3),
            ({"image": PIXELS, "caption": "a dog"}, ("a dog",), None),
            ({"img": PIXELS, "text": ["a dog", "b"], "label": 2}, ("a dog", "b"), 2),
            (Pair(png(), ("x",), "k", 5), ("x",), 5),
        ],
    )
    def test_forms(self, item: Any, captions: tuple[str, ...], label: int | None) -> None:
        pair = pair_of_item(item, "7")
        assert pair.captions == captions and pair.label == label and pair.image is not None

    def test_further_fields_are_columns(self) -> None:
        pair = pair_of_item({"image": PIXELS, "caption": "a", "gps": (1.0, 2.0), "key": "name", "none": None}, "0")
        assert dict(pair.columns) == {"gps": (1.0, 2.0)} and pair.key == "name"

    @pytest.mark.parametrize("item", [PIXELS, (PIXELS,), (PIXELS, "a", "b"), (PIXELS, None), {"pixels": PIXELS}, 3])
    def test_others(self, item: Any) -> None:
        with pytest.raises(InputError, match="an item of the data set is .*: "):
            pair_of_item(item, "0")


class Scenes(Dataset[Any]):
    """Rendered scenes as people write their Datasets."""

    def __init__(self, form: str, size: int = 32) -> None:
        self.source = pair_sources.build({"name": "synthetic", "size": size, "image_size": 32})
        self.form = form

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        pair = self.source[index]
        pixels = pair.image
        assert isinstance(pixels, torch.Tensor)
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        return {
            "pil": (picture, pair.captions[0]),
            "several": (picture, list(pair.captions[:2])),
            "mapping": {"image": pixels.permute(1, 2, 0).numpy(), "caption": pair.captions[0]},
            "tensor": (pixels / 255, pair.captions[0]),
            "pair": pair,
        }[self.form]


FORMS = ["pil", "several", "mapping", "tensor", "pair"]


@pytest.mark.parametrize(
    ("form", "workers"),
    [*((form, 0) for form in FORMS), *corners([(form, 2) for form in FORMS], ("pil", 2))],
)
def test_a_dataset_in_a_data_module(form: str, workers: int, tmp_path: Path) -> None:
    """The very pairs, whatever their form: the losses of a run on them are those on the source itself."""
    losses = []
    for train in (Scenes(form), {"name": "synthetic", "size": 32, "image_size": 32}):
        module = small_module(towers={"image": {"transform": {"augment": False}}})
        module.choose_caption = lambda pair, rng: pair.captions[0]  # type: ignore[method-assign]
        torch.manual_seed(0)
        module.model
        trainer = small_trainer(tmp_path, max_steps=2)
        trainer.fit(module, ClipDataModule(train, local_batch_size=16, num_workers=workers if train is not None else 0))
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_loader(form: str, tmp_path: Path) -> None:
    module, trainer = small_module(), small_trainer(tmp_path, max_steps=3)
    loaders = (DataLoader(Scenes(form), batch_size=16, shuffle=True), DataLoader(Scenes(form), batch_size=16))  # type: ignore[var-annotated]
    trainer.fit(module, *loaders)
    assert trainer.global_step == 3 and {"train/loss", "val/loss"} <= set(trainer.callback_metrics)
    again = small_trainer(tmp_path).validate(module, DataLoader(Scenes("pair"), batch_size=16), verbose=False)[0]
    assert again["val/loss"] == pytest.approx(float(trainer.validate(module, loaders[1], verbose=False)[0]["val/loss"]))
    features = torch.cat([batch.features["image"] for batch in small_trainer(tmp_path).predict(module, loaders[1])])
    torch.testing.assert_close(features, module.encode_image([item[0] for item in Scenes("pil")]))  # type: ignore[attr-defined]


def collate(items: list[Any]) -> Any:
    return [image for image, _ in items], [text for _, text in items]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Scenes("pil"), batch_size=16, collate_fn=collate),
        DataLoader(Scenes("tensor"), batch_size=16, collate_fn=lambda items: torch.utils.data.default_collate(items)),
        DataLoader(Scenes("mapping"), batch_size=16, collate_fn=lambda items: torch.utils.data.default_collate(items)),
    ],
    ids=["lists", "tuple", "mapping"],
)
def test_loaders_that_collate_themselves(loader: Any, tmp_path: Path) -> None:
    module, trainer = small_module(), small_trainer(tmp_path, max_steps=2)
    trainer.fit(module, loader)
    assert trainer.global_step == 2
    found = small_trainer(tmp_path).validate(module, loader, verbose=False)[0]["val/loss"]
    plain = small_trainer(tmp_path).validate(module, DataLoader(Scenes("pil"), batch_size=16), verbose=False)[0]["val/loss"]
    assert found == pytest.approx(plain, rel=1e-5)


def test_broken_items_are_skipped(tmp_path: Path) -> None:
    class Broken(Scenes):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index % 4 else (b"no image", "text")

    module, trainer = small_module(), small_trainer(tmp_path, max_steps=2)
    trainer.fit(module, DataLoader(Broken("pil"), batch_size=16))
    assert trainer.global_step == 2
    with pytest.raises(InputError, match=r"\d+ train samples could not be used"):
        small_trainer(tmp_path, max_steps=2).fit(small_module(), ClipDataModule(Broken("pil"), local_batch_size=16))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from (Scenes("pil")[index] for index in range(32))


def test_streams(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(small_module(), DataLoader(Stream(), batch_size=16))
    assert trainer.global_step == 2
    with pytest.raises(InputError, match="data Stream has no length or no items: give a path"):
        ClipDataModule(Stream()).source("train")  # type: ignore[arg-type]


def test_class_names_of_a_dataset() -> None:
    class Labelled(Scenes):
        classes = ("cat", "dog")

        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0], index % 2

    source = ClipDataModule(Labelled("pil")).source("train")  # type: ignore[arg-type]
    assert source.class_names == ["cat", "dog"] and source.label(3) == 1 and "Labelled of 32 items" in source.layout


class TestTuner:
    def test_finds_a_learning_rate(self, tmp_path: Path) -> None:
        module = small_module(optimizer={"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"})
        trainer = pl.Trainer(**{**quiet(tmp_path), "max_steps": 30})
        found = Tuner(trainer).lr_find(module, datamodule=small_data(size=64), num_training=20, min_lr=1e-5, max_lr=1e-1)
        assert found is not None and found.suggestion() is not None
        assert module.lr == found.suggestion() == module.training_settings.optimizer.lr != 1e-3
        assert len(set(found.results["lr"])) > 10  # it did change

    @pytest.mark.parametrize("validates", corners([True, False], False))
    def test_finds_a_batch_size(self, validates: bool, tmp_path: Path) -> None:
        data = small_data(size=128, batch=2, **({} if validates else {"val": None}))
        Tuner(pl.Trainer(**quiet(tmp_path))).scale_batch_size(small_module(), datamodule=data, max_trials=3, steps_per_trial=1)
        assert data.batch_size == data.local_batch_size == 8


def quiet(folder: Path) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "max_steps": 4,
        "default_root_dir": folder,
    }


def test_the_page_s_example() -> None:
    page = (Path(__file__).parents[2] / "docs/concepts/what_do_i_have.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(block, names)
    assert [names["data"].source("train")[index].captions for index in range(3)] == [
        ("a red picture",),
        ("a green picture",),
        ("a blue picture",),
    ]
