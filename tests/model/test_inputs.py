"""Whatever people hand to a model: right, or one line that says what to give instead."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import save_checkpoint, small_module
from torch import Tensor

from lightning_clip import ClipModule, InputError


@pytest.fixture(scope="module")
def module() -> ClipModule:
    torch.manual_seed(0)
    return small_module().eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


class TestImages:
    @pytest.mark.parametrize(
        "form",
        ["pil", "arrays", "array", "channels first", "tensors", "generator", "paths", "bytes", "floats", "array of floats"],
    )
    def test_right(self, module: ClipModule, pixels: Tensor, form: str, tmp_path: Path) -> None:
        """Every form of the same pixels gives the features of the tensor (B, 3, H, W)."""
        pictures, encoded = [picture(image) for image in pixels], []
        for number, image in enumerate(pictures):
            image.save(tmp_path / f"{number}.png")
            encoded.append((tmp_path / f"{number}.png").read_bytes())
        images: Any = {
            "pil": pictures,
            "arrays": [np.asarray(image) for image in pictures],
            "array": np.stack([np.asarray(image) for image in pictures]),
            "channels first": pixels.numpy(),
            "tensors": list(pixels),
            "generator": (image for image in pictures),
            "paths": [str(tmp_path / "0.png"), tmp_path / "1.png", tmp_path / "2.png"],
            "bytes": tuple(encoded),
            "floats": pixels / 255,
            "array of floats": [(pixels[number].permute(1, 2, 0) / 255).numpy() for number in range(3)],
        }[form]
        torch.testing.assert_close(module.encode_image(images, batch_size=2), module.encode_image(pixels))

    def test_one(self, module: ClipModule, pixels: Tensor, tmp_path: Path) -> None:
        expected = module.encode_image(pixels[:1])
        picture(pixels[0]).save(tmp_path / "one.png")
        path = tmp_path / "one.png"
        for one in (
            picture(pixels[0]),
            pixels[0],
            pixels[0].permute(1, 2, 0),
            pixels[0].numpy(),
            path,
            str(path),
            path.read_bytes(),
        ):
            torch.testing.assert_close(module.encode_image(one), expected)
            assert module.predictor.scores(one, ["cat", "dog"]).shape == (1, 2)

    @pytest.mark.parametrize(
        ("images", "expected"),
        [
            (torch.zeros(2, 40, 40, 3, dtype=torch.uint8), r"are \(B, H, W, 3\), with the colours last: give images.permute"),
            (torch.zeros(2, 1, 40, 40, dtype=torch.uint8), "have 1 channels, not 3: convert them to RGB"),
            (torch.zeros(2, 4, 40, 40, dtype=torch.uint8), "have 4 channels, not 3"),
            (np.zeros((2, 40, 40, 4), np.uint8), "have 40 channels, not 3"),
            (
                torch.zeros(2, 3, 40, 40) - 1,
                "images cannot be read: image has floats outside of 0 to 1.*Give pixels",
            ),
            (np.full((2, 40, 40, 3), 1.5), "floats outside of 0 to 1: the model normalises pixels itself"),
            (torch.full((2, 3, 40, 40), 256), "integers outside of 0 to 255"),
            (
                torch.zeros(1, 2, 3, 40, 40, dtype=torch.uint8),
                r"of type Tensor cannot be read: image has the shape \(1,",
            ),
            ([torch.full((3, 40, 40), torch.nan)], "image of type Tensor cannot be read: image has floats outside"),
            (None, "images of type NoneType are no images"),
            ({"image": 1}, "images of type dict are no images"),
            (7, "images of type int are no images"),
            ([7], "image '7' of type int is no image"),
            ([None], "image 'None' of type NoneType is no image"),
            ("none.png", "image 'none.png' does not exist"),
            ([b"broken"], "image of type bytes cannot be read: not an image. Give a JPEG"),
        ],
    )
    def test_mistakes(self, module: ClipModule, images: Any, expected: str) -> None:
        with pytest.raises(InputError, match=expected):
            module.encode_image(images)

    def test_a_batch_size_of_nothing(self, module: ClipModule, pixels: Tensor) -> None:
        for size in (0, -1, 2.5):
            with pytest.raises(InputError, match=f"batch_size {size} must be a whole number >= 1"):
                module.encode_image(pixels, batch_size=size)  # type: ignore[arg-type]
            with pytest.raises(InputError, match=f"batch_size {size} must be a whole number >= 1"):
                module.encode_text("a", batch_size=size)  # type: ignore[arg-type]


class TestTexts:
    @pytest.mark.parametrize("form", ["tuple", "generator", "array", "ids", "array of ids", "int32", "padded"])
    def test_right(self, module: ClipModule, form: str) -> None:
        texts = ["a dog", "two cats on a beach"]
        ids = module.tokenizer(texts)[0]
        given: Any = {
            "tuple": tuple(texts),
            "generator": (text for text in texts),
            "array": np.array(texts),
            "ids": ids,
            "array of ids": ids.numpy(),
            "int32": ids.int(),
            "padded": torch.nn.functional.pad(ids, (0, 77 - ids.shape[1])),  # further than the tokenizer would
        }[form]
        torch.testing.assert_close(module.encode_text(given), module.encode_text(texts))

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (torch.ones(2, 8), r"token ids must be integers \(B, L\), got torch.float32 \(2, 8\): give what the tokenizer"),
            (np.ones((2, 8)), "token ids must be integers"),
            (torch.ones(2, 8, dtype=torch.bool), "token ids must be integers"),
            (torch.ones(8, dtype=torch.int64), r"got torch.int64 \(8,\): give tokens\[None\] for one text"),
            (torch.ones(2, 0, dtype=torch.int64), r"token ids \(2, 0\) hold nothing"),
            (torch.full((1, 4), 49408), "token id 49408 is out of range: the text tower embeds ids 0 to 49407"),
            (torch.full((1, 4), -1), "token id -1 is out of range"),
            (torch.ones(1, 78, dtype=torch.int64), "a text of 78 token ids is longer than the context_length 24"),
            ([torch.ones(8, dtype=torch.int64)], r"a list of tensors: give token ids as one tensor \(B, L\)"),
            (None, "texts 'None' of type NoneType are no texts"),
            (b"a dog", "of type bytes are no texts"),
            ({"a": "dog"}, "of type dict are no texts"),
            ([b"a dog"], "is not a list of strings"),
            ([1, 2], "is not a list of strings"),
            (["a dog", None], "is not a list of strings"),
        ],
    )
    def test_mistakes(self, module: ClipModule, texts: Any, expected: str) -> None:
        with pytest.raises(InputError, match=expected):
            module.encode_text(texts)

    def test_ids_of_a_tower_that_does_not_say_how_many(self) -> None:
        bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50000}
        module = small_module(text_encoder={"name": "hf", "config": {**bert, "intermediate_size": 32}})
        with pytest.raises(InputError, match="token id 50000 is out of range: the text tower embeds ids 0 to 49999"):
            module.encode_text(torch.full((1, 4), 50000))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("run") / "last.ckpt")


class TestCheckpoints:
    def test_open_files(self, path: Path) -> None:
        expected = ClipModule.load_from_checkpoint(path).encode_text("a dog")
        with path.open("rb") as stream:
            assert torch.equal(ClipModule.load_from_checkpoint(stream).encode_text("a dog"), expected)
        assert torch.equal(ClipModule.load_from_checkpoint(io.BytesIO(path.read_bytes())).encode_text("a dog"), expected)
        with pytest.raises(InputError, match="is no complete checkpoint"):
            ClipModule.load_from_checkpoint(io.BytesIO(path.read_bytes()[:1000]))

    def test_home(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(path.parent))
        assert ClipModule.load_from_checkpoint("~/last.ckpt").is_built

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
    @pytest.mark.parametrize("location", ["cuda", "cuda:3", torch.device("cuda"), "gpu"])
    def test_a_device_that_is_not_there(self, path: Path, location: Any) -> None:
        with pytest.raises(
            InputError, match=f"map_location '{location}' is no device of this machine .*: omit it, or use 'cpu'"
        ):
            ClipModule.load_from_checkpoint(path, map_location=location)

    def test_no_path(self) -> None:
        for nothing in (None, 7, ["last.ckpt"]):
            with pytest.raises(InputError, match="is no path and no open file"):
                ClipModule.load_from_checkpoint(nothing)
