"""JPEGs decoded at a half, a quarter or an eighth in training: the same draws, nearly the same pixels."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import encoded, gradient
from PIL import Image
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.data import TableSource
from lightning_clip.data.decoding import decode, from_pil
from lightning_clip.data.image_steps import Cropped
from lightning_clip.data.jpeg import decode_jpeg, read_header
from lightning_clip.data.transforms import ImageTransformSettings, decode_for, evaluation_transform, training_transform

PHOTOGRAPH = gradient(100, 75).resize((800, 600), Image.Resampling.BICUBIC)


def made(transform: Any, data: bytes, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The pixels of a picture, and the next number that is drawn."""
    torch.manual_seed(seed)
    return transform(decode_for(data, transform)), torch.rand(1)


def decibels(first: Tensor, second: Tensor) -> float:
    return 10 * math.log10(255**2 / max(1e-9, float((first.double() - second.double()).pow(2).mean())))


class TestDecoder:
    @pytest.mark.parametrize("step", [2, 4, 8])
    @pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
    def test_as_pillow_scales(self, step: int, options: dict[str, Any]) -> None:
        data = encoded(gradient(163, 117), "JPEG", quality=90, **options)
        header = read_header(data)
        assert header is not None and (header.height, header.width) == (117, 163)
        found, picture = decode_jpeg(data, header, step), Image.open(io.BytesIO(data))
        picture.draft("RGB", (163 // step, 117 // step))
        assert found is not None and found.shape == (3, -(-117 // step), -(-163 // step))
        assert torch.equal(found, from_pil(picture))

    def test_grey(self) -> None:
        data = encoded(gradient(64, 48).convert("L"), "JPEG")
        header = read_header(data)
        assert header is not None and header.plain
        found = decode_jpeg(data, header, 2)
        assert found is not None and found.shape == (3, 24, 32) and torch.equal(found[0], found[2])

    def test_what_another_decoder_has_to_read(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned, inks = encoded(gradient(), "JPEG", exif=exif), encoded(gradient().convert("CMYK"), "JPEG")
        for data in (turned, inks):
            header = read_header(data)
            assert header is not None and not header.plain and decode_jpeg(data, header) is None
        whole = encoded(gradient(), "JPEG")
        header = read_header(whole)
        assert header is not None
        assert decode_jpeg(whole[: len(whole) // 2], header) is None
        assert decode_jpeg(whole, header._replace(height=900), 2) is None


class TestCrop:
    @pytest.mark.parametrize("crop", [{}, {"crop_scale": [0.1, 1.0], "flip": 0.5}], ids=str)
    def test_same_draws_and_nearly_the_same_pixels(self, crop: dict[str, Any]) -> None:
        data = encoded(PHOTOGRAPH, "JPEG", quality=95)
        scaled = training_transform(32, ImageTransformSettings.of(crop))
        whole = training_transform(32, ImageTransformSettings.of({**crop, "scaled_decoding": None}))
        for seed in range(20):
            (first, drawn), (second, expected) = made(scaled, data, seed), made(whole, data, seed)
            assert first.shape == second.shape and torch.equal(drawn, expected)
            assert decibels(first, second) > 35

    @pytest.mark.parametrize(
        ("size", "scaled", "side"),
        [(70, 2.0, 150), (80, 2.0, 300), (64, 1.0, 75), (64, 1.2, 150), (160, 2.0, 600), (30, 2.0, 75)],
    )
    def test_smallest_scale_that_is_enough(self, size: int, scaled: float, side: int) -> None:
        """Of 800 x 600, of which all is shown."""
        settings = ImageTransformSettings(crop_scale=(0.9999, 1.0), crop_ratio=(1.3333, 1.3334), scaled_decoding=scaled)
        transform = training_transform(size, settings)
        found = decode_for(encoded(PHOTOGRAPH, "JPEG"), transform)
        pixels = found.pixels if isinstance(found, Cropped) else found
        assert side - 1 <= pixels.shape[1] <= side and transform(found).shape == (3, size, size)

    def test_the_crop_decides_not_the_picture(self) -> None:
        settings = ImageTransformSettings(crop_scale=(0.01, 1.0), crop_ratio=(1.0, 1.0))
        transform, data = training_transform(64, settings), encoded(PHOTOGRAPH, "JPEG")
        steps = set()
        for seed in range(30):
            torch.manual_seed(seed)
            found = decode_for(data, transform)
            torch.manual_seed(seed)
            height = transform[0].drawn(600, 800)[2]  # type: ignore[operator, index]
            steps.add(height // found.pixels.shape[1])
            assert found.pixels.shape[1] >= min(128, height)
        assert steps == {1, 2, 4}

    def test_damaged_files_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        transform, data = training_transform(32, ImageTransformSettings()), encoded(PHOTOGRAPH, "JPEG")
        with pytest.raises(ValueError, match="^truncated image$"):
            decode_for(data[: len(data) // 2] + bytes(len(data) // 2), transform)
        expected = made(transform, data)
        monkeypatch.setattr("lightning_clip.data.jpeg.simplejpeg.decode_jpeg", refuses)
        found = made(transform, data)  # by another decoder, whole, after the same draws
        assert torch.equal(found[1], expected[1]) and decibels(found[0], expected[0]) > 40

    def test_what_is_always_decoded_whole(self) -> None:
        data = encoded(PHOTOGRAPH, "JPEG")
        for transform in (
            evaluation_transform(32, ImageTransformSettings()),
            training_transform(32, ImageTransformSettings(scaled_decoding=None)),
            training_transform(32, ImageTransformSettings(augment=False)),
            training_transform(32, ImageTransformSettings(views=2)),
        ):
            assert torch.equal(decode_for(data, transform), decode(data))
        scaled = training_transform(32, ImageTransformSettings())
        assert decode_for(encoded(PHOTOGRAPH, "PNG"), scaled).shape == (3, 600, 800)
        pixels = torch.zeros(3, 500, 500, dtype=torch.uint8)
        assert decode_for(pixels, scaled) is pixels

    def test_errors(self) -> None:
        with pytest.raises(InputError, match="scaled_decoding 0.5 must be a number from 1, or null"):
            ImageTransformSettings(scaled_decoding=0.5)


def refuses(*_: Any, **__: Any) -> Any:
    raise ValueError("not by me")


def test_flickr8k_keeps_40_decibels(shared_data: Path) -> None:
    """Against the whole decode of the very same crop, where the crop has just over four times the result's pixels, and more."""
    folder = shared_data / "flickr8k"
    source = TableSource(str(folder / "captions.jsonl"), "images_144.tar", caption_column="en")
    found = []
    for number in range(0, 8000, 80):
        data: Any = source[number].image
        header = read_header(data)
        assert header is not None
        for size in (14, 20, 28, 34):
            transform: Any = training_transform(size, ImageTransformSettings())
            torch.manual_seed(number)
            scaled = decode_for(data, transform)
            if not isinstance(scaled, Cropped):
                continue
            torch.manual_seed(number)
            top, left, height, width = transform[0].drawn(header.height, header.width)
            step = height // scaled.pixels.shape[1]
            top, left = top // step * step, left // step * step
            sides = [side // step * step for side in (height, width)]
            whole = decode(data)[:, top : top + sides[0], left : left + sides[1]]
            found.append(decibels(transform(scaled), transform(Cropped(whole))))
    assert len(found) > 300 and sum(one >= 40 for one in found) / len(found) >= 0.98
