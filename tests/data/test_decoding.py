"""Decoding by rule: what odd pictures look like, and that no broken one passes for a whole one."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, gradient
from PIL import Image
from torch import nn
from torchvision.io import decode_image

from lightning_clip import InputError
from lightning_clip.data.decoding import decode
from lightning_clip.data.pixel_values import PixelReading
from lightning_clip.data.transforms import ImageTransformSettings, decode_for, evaluation_transform, training_transform


def reference(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


class TestRules:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_every_orientation(self, kind: str, orientation: int) -> None:
        """The eight ways to hold a camera, against rotations and mirrors by hand."""
        straight = Image.new("RGB", (48, 32), "black")
        straight.paste("red", (0, 0, 24, 16))
        straight.paste("blue", (24, 16, 48, 32))
        pixels = np.array(straight)
        turned = {
            1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
            6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels),
        }[orientation]  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        found = decode(encoded(straight, kind, exif=exif, **options))
        expected = torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)
        assert found.shape == expected.shape and (found.int() - expected.int()).abs().max() <= 40
        assert (found.int() - expected.int()).abs().float().mean() < 2

    @pytest.mark.parametrize("adobe", [False, True])
    def test_cmyk_jpeg(self, adobe: bool) -> None:
        """Inks, as printers' files have them; Adobe's marker says that they are stored inverted."""
        cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), level) for level in (0, 200, 200, 20)])
        data = encoded(cmyk, "JPEG", quality=95)
        if not adobe:
            start = data.index(b"\xff\xee")
            length = 2 + struct.unpack(">H", data[start + 2 : start + 4])[0]
            data = data[:start] + data[start + length :]
        red, green, blue = decode(data).float().mean(dim=(1, 2)).tolist()
        assert red > green + 80 and red > blue + 80 if adobe else decode(data).shape == (3, 16, 16)

    @pytest.mark.parametrize(("mode", "pixel"), [("LA", (90, 0)), ("RGBA", (9, 9, 9, 0)), ("PA", (3, 0))])
    def test_transparent_is_white(self, mode: str, pixel: tuple[int, ...]) -> None:
        if mode == "PA":
            image = Image.new("P", (6, 4), 0)
            image.putpalette([9, 9, 9])
            data = encoded(image, "PNG", transparency=bytes([0]))
        else:
            data = encoded(Image.new(mode, (6, 4), pixel), "PNG")
        assert decode(data).unique().tolist() == [255]

    def test_half_transparent(self) -> None:
        found = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
        assert found.unique().tolist() == [127]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bits(self, kind: str) -> None:
        levels = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
        found = decode(encoded(Image.fromarray(levels), kind))
        assert torch.equal(found[0].int(), torch.from_numpy((levels * (255 / 65535)).astype(np.int32)))

    def test_float_tiff_and_one_bit(self) -> None:
        assert decode(encoded(Image.fromarray(np.full((4, 4), 300.0, np.float32)), "TIFF")).unique().tolist() == [255]
        assert decode(encoded(Image.new("1", (4, 4), 1), "PNG")).unique().tolist() == [255]

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_first_frame(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        "options",
        [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_rows": 1}],
    )
    def test_kinds_of_jpeg(self, options: dict[str, object]) -> None:
        data = encoded(gradient(61, 43), "JPEG", quality=92, **options)
        expected = reference(Image.open(io.BytesIO(data)))
        assert (decode(data).float() - expected.float()).pow(2).mean() < 1.0
        assert torch.equal(decode(data), decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)))

    def test_trailing_bytes_are_no_fault(self) -> None:
        data = encoded(gradient(), "JPEG", quality=90)
        assert torch.equal(decode(data + b"\0" * 100), decode(data))
        assert (decode(data + b"x" * 10_000).int() - decode(data).int()).abs().max() <= 4


class TestBroken:
    @pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95, 0.999])
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
    def test_no_cut_picture_passes(self, kind: str, share: float) -> None:
        """torchvision would fill the rest of a JPEG with grey and say nothing."""
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8))
        data = encoded(noise, kind)
        with pytest.raises(ValueError, match=r"truncated image|undecodable image|not an image"):
            decode(data[: int(len(data) * share)])

    def test_bomb_in_a_jpeg(self) -> None:
        """A real header of 60,000 x 60,000 pixels, in a file of a few hundred bytes."""
        data = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
        with pytest.raises(ValueError, match="image too large"):
            decode(bytes(data))

    def test_bomb_in_a_png(self) -> None:
        data = bytearray(encoded(Image.new("L", (16, 16)), "PNG"))
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        with pytest.raises(ValueError, match="image too large"):
            decode(bytes(data))

    def test_formats_that_nobody_reads(self) -> None:
        heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
        for data in (heic, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>404</html>", b"\0" * 300):
            with pytest.raises(ValueError, match="not an image|undecodable image"):
                decode(data)

    def test_jpeg_headers_of_all_sorts(self) -> None:
        """Any bytes after the start of a JPEG end in a short reason, never in another error or a crash."""
        rng = np.random.default_rng(1)
        whole = encoded(gradient(), "JPEG")
        for number in range(200):
            data = bytearray(whole)
            for place in rng.integers(3, len(whole), size=1 + number % 8):
                data[place] = rng.integers(256)
            try:
                found = str(decode(bytes(data)).shape[0])
            except ValueError as error:
                found = str(error)
            assert 0 < len(found) < 60


class TestRanges:
    """Images of more than 8 bits, whose black and white are a matter of convention."""

    def stored(self, values: Any, kind: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, kind)
        return buffer.getvalue()

    @pytest.mark.parametrize(
        ("values", "kind", "window", "white"),
        [
            (np.full((4, 4), 4095, np.uint16), "PNG", (0, 4095), 255),
            (np.full((4, 4), 4095, np.uint16), "PNG", None, 15),
            (np.full((4, 4), 65535, np.uint16), "PNG", None, 255),
            (np.full((4, 4), 1000, np.int32), "TIFF", (-1000, 1000), 255),
            (np.full((4, 4), 0, np.int32), "TIFF", (-1000, 1000), 127),
            (np.full((4, 4), 1.0, np.float32), "TIFF", None, 255),
            (np.full((4, 4), 128.0, np.float32), "TIFF", None, 128),
            (np.full((4, 4), 0.5, np.float32), "TIFF", (0.0, 2.0), 63),
            (np.full((4, 4), np.nan, np.float32), "TIFF", None, 0),
        ],
    )
    def test_white(self, values: Any, kind: str, window: Any, white: int) -> None:
        found = decode(self.stored(values, kind), PixelReading(window))
        assert found.dtype == torch.uint8 and found.shape == (3, 4, 4) and set(found.flatten().tolist()) == {white}

    def test_is_a_setting_of_the_transform(self) -> None:
        settings = ImageTransformSettings.of({"window": [0, 4095]})
        png = self.stored(np.full((40, 40), 4095, np.uint16), "PNG")
        for transform in (training_transform(32, settings), evaluation_transform(32, settings)):
            assert decode_for(png, transform).min() == 255
        several = training_transform(32, ImageTransformSettings.of({"window": [0, 4095], "views": 2}))
        assert decode_for(png, several).min() == 255 and decode_for(png, nn.Identity()).max() == 15
        with pytest.raises(InputError, match=r"window \(3, 3\) must be two rising numbers"):
            ImageTransformSettings(window=(3, 3))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "JPEG"])
def test_giants_of_any_format(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for size, fits in (((100, 100), True), ((101, 100), False), ((300, 300), False)):
        buffer = io.BytesIO()
        Image.new("RGB", size, "red").save(buffer, kind)
        if fits:
            assert decode(buffer.getvalue()).shape == (3, size[1], size[0])
        else:
            with pytest.raises(ValueError, match="^image too large$"):
                decode(buffer.getvalue())


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_second_half_is_zeros(progressive: bool) -> None:
    """As an interrupted download with the file's size reserved leaves it; libjpeg makes the rest grey."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", progressive=progressive)
    whole = buffer.getvalue()
    assert decode(whole).shape[0] == 3
    assert decode(whole + bytes(10_000)).shape[0] == 3  # what a camera writes behind the end does not matter
    with pytest.raises(ValueError, match="^truncated image$"):
        decode(whole[: len(whole) // 2] + bytes(len(whole) // 2))
