"""Decoding by rule and transforms: odd formats, shapes, and what is refused."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import forked
from pictures import encoded, gradient
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from lightning_clip import InputError
from lightning_clip.data import TableSource
from lightning_clip.data.decoding import decode, from_pil
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform, training_transform


class TestDecode:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
    def test_formats(self, kind: str) -> None:
        found = decode(encoded(gradient(), kind, **({"lossless": True} if kind == "WEBP" else {})))
        expected = torch.from_numpy(np.array(gradient())).permute(2, 0, 1)
        assert found.shape == (3, 30, 40) and found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= (40 if kind == "GIF" else 0)

    def test_jpeg_equals_pil(self) -> None:
        data = encoded(gradient(), "JPEG", quality=95)
        expected = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
        assert (decode(data).int() - expected.int()).abs().max() <= 4  # chroma is upsampled slightly differently

    def test_grey_and_cmyk_jpeg(self) -> None:
        grey = decode(encoded(gradient().convert("L"), "JPEG"))
        assert grey.shape[0] == 3 and torch.equal(grey[0], grey[1])
        cmyk = decode(encoded(Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), "JPEG"))
        assert cmyk.shape == (3, 16, 16) and cmyk[0].float().mean() > 150 > 90 > cmyk[1].float().mean()

    def test_transparency_is_laid_on_white(self) -> None:
        picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
        picture.putpixel((0, 0), (255, 0, 0, 255))
        found = decode(encoded(picture, "PNG"))
        assert found[:, 0, 0].tolist() == [255, 0, 0] and found[:, 1, 1].tolist() == [255, 255, 255]

    def test_transparent_palette(self) -> None:
        picture = Image.new("P", (4, 4), 1)
        picture.putpalette([0, 0, 0, 10, 200, 30])
        picture.putpixel((0, 0), 0)
        found = decode(encoded(picture, "PNG", transparency=0))
        assert found[:, 1, 1].tolist() == [10, 200, 30] and found[:, 0, 0].tolist() == [255, 255, 255]

    def test_sixteen_bits(self) -> None:
        picture = Image.fromarray(np.array([[0, 32768], [65535, 257]], dtype=np.uint16))
        assert decode(encoded(picture, "PNG"))[0].tolist() == [[0, 127], [255, 1]]

    def test_first_frame_of_an_animation(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[:, 0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_orientation(self, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rows are columns
        found = decode(encoded(gradient(40, 30), kind, exif=exif))
        assert found.shape == (3, 40, 30)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty file"),
            (b"no picture at all", "not an image"),
            (encoded(gradient(200, 200), "PNG")[:-300], "truncated image|undecodable image"),
            (encoded(gradient(200, 200), "JPEG")[:600], "truncated image|undecodable image"),
            (b"\xff\xd8\xff" + b"x" * 50, "not an image|undecodable"),
        ],
    )
    def test_broken(self, data: bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            decode(data)

    def test_decompression_bomb(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ValueError, match="image too large"):
            decode(encoded(gradient(), "PNG"))

    def test_emoji_of_the_shared_data(self, shared_data: Path) -> None:
        from lightning_clip.data import TableSource

        source = TableSource(str(shared_data / "noto_emoji/captions.jsonl"), "images_72.tar", caption_column="zh")
        for number in range(0, len(source), 97):
            found = decode(source[number].image)
            assert found.shape[0] == 3 and found[:, 0, 0].tolist() == [255, 255, 255]


class TestTransforms:
    def test_training_crop(self) -> None:
        transform = training_transform(16, ImageTransformSettings(crop_scale=(0.2, 0.4), flip=0.5))
        image = from_pil(gradient())
        torch.manual_seed(0)
        first, second = transform(image), transform(image)
        torch.manual_seed(0)
        assert first.shape == (3, 16, 16) and first.dtype == torch.uint8
        assert torch.equal(transform(image), first) and not torch.equal(first, second)

    @pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
    def test_evaluation(self, resize: str) -> None:
        found: Tensor = evaluation_transform(16, ImageTransformSettings(resize=resize))(from_pil(gradient(40, 20)))
        assert found.shape == (3, 16, 16) and found.dtype == torch.uint8
        # The red channel rises from left to right: how far says what became of the sides.
        red = found[0, 8].float()
        if resize == "pad":
            assert found[:, 0, 0].tolist() == [127, 127, 127] and found[:, -1, -1].tolist() == [127, 127, 127]
            assert 0 <= red[0] < 25 and red[-1] > 230
        elif resize == "squash":
            assert red[0] < 25 and red[-1] > 230
        else:
            assert red[0] > 55 and red[-1] < 200

    def test_equal_to_open_clips_preprocessing(self) -> None:
        """Resize and centre crop of the reference, on pixels that both decode alike."""
        from open_clip.transform import image_transform

        picture = gradient(97, 61)
        theirs = image_transform(32, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(picture) * 255
        ours = evaluation_transform(32, ImageTransformSettings())(from_pil(picture)).float()
        error = (ours - theirs).pow(2).mean()
        assert 10 * torch.log10(255**2 / error) > 45

    def test_same_crops_as_torchvision(self) -> None:
        """The same draws and the same pixels as v2.RandomResizedCrop, only sooner."""
        settings = ImageTransformSettings(crop_scale=(0.1, 1.0))
        theirs = v2.RandomResizedCrop(
            24, scale=(0.1, 1.0), ratio=(0.75, 4 / 3), interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        ours, image = training_transform(24, settings), from_pil(gradient(97, 61))
        for seed in range(20):
            torch.manual_seed(seed)
            expected = theirs(image)
            torch.manual_seed(seed)
            assert torch.equal(ours(image), expected)

    @pytest.mark.parametrize(
        "settings",
        [{"colour_jitter": [0.4, 0.4, 0.4, 0.1], "colour_jitter_probability": 1.0}, {"rand_augment": [2, 9]}],
        ids=str,
    )
    def test_augmentations(self, settings: dict[str, Any]) -> None:
        transform = training_transform(16, ImageTransformSettings.of({"crop_scale": [1.0, 1.0], **settings}))
        image = from_pil(gradient())
        found = []
        for seed in (0, 1, 0):
            torch.manual_seed(seed)
            found.append(transform(image))
        assert found[0].dtype == torch.uint8 and found[0].shape == (3, 16, 16)
        assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])

    def test_jitter_as_often_as_asked(self) -> None:
        settings = {
            "crop_scale": [1, 1],
            "crop_ratio": [1, 1],
            "colour_jitter": [0.5, 0, 0, 0],
            "colour_jitter_probability": 0.3,
        }
        transform, image = training_transform(16, ImageTransformSettings.of(settings)), from_pil(gradient(30, 30))
        plain = training_transform(16, ImageTransformSettings(crop_scale=(1, 1), crop_ratio=(1, 1)))(image)
        torch.manual_seed(0)
        changed = sum(not torch.equal(transform(image), plain) for _ in range(300)) / 300
        assert 0.2 < changed < 0.4

    @pytest.mark.parametrize(
        ("settings", "reference"),
        [
            ({}, {}),
            ({"resize": "squash", "interpolation": "bilinear"}, {"resize_mode": "squash", "interpolation": "bilinear"}),
            ({"resize": "squash"}, {"resize_mode": "squash"}),
            ({"resize": "pad"}, {"resize_mode": "longest", "fill_color": 127}),
        ],
        ids=["CLIP", "SigLIP bilinear", "SigLIP", "pad"],
    )
    def test_reference_preprocessing_on_photographs(
        self, settings: dict[str, Any], reference: dict[str, Any], shared_data: Path
    ) -> None:
        """Pixels of 40 photographs beside open_clip's pipeline over PIL: at least 55 dB on average where both decode alike."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = PreprocessCfg(size=112, mean=(0.0,) * 3, std=(1.0,) * 3, **reference)
        theirs = image_transform_v2(config, is_train=False)
        ours = evaluation_transform(112, ImageTransformSettings.of(settings))
        quality = []
        source = TableSource(str(shared_data / "flickr8k/captions.jsonl"), "images_144.tar", caption_column="en")
        for number in range(0, 4000, 100):
            image = source[number].image
            assert isinstance(image, bytes)
            picture = Image.open(io.BytesIO(image)).convert("RGB")
            error = (ours(from_pil(picture)).float() - theirs(picture) * 255).pow(2).mean()
            quality.append(10 * torch.log10(255**2 / error.clamp_min(1e-6)).item())
        assert sum(quality) / len(quality) >= 55

    def test_errors(self) -> None:
        with pytest.raises(InputError, match=r"crop_scale \(0.0, 1.0\) must be two rising shares"):
            ImageTransformSettings(crop_scale=(0.0, 1.0))
        with pytest.raises(InputError, match="flip 2 is a probability"):
            ImageTransformSettings(flip=2)
        with pytest.raises(InputError, match=r"crop_ratio \(0, 1\) must be two rising numbers"):
            ImageTransformSettings(crop_ratio=(0, 1))
        with pytest.raises(InputError, match=r"colour_jitter \(1, 1, 1, 1\) must be four strengths"):
            ImageTransformSettings(colour_jitter=(1, 1, 1, 1))
        with pytest.raises(InputError, match=r"rand_augment \(2, 40\) must be a number of operations"):
            ImageTransformSettings(rand_augment=(2, 40))
        with pytest.raises(InputError, match="unknown interpolation 'bicube': did you mean 'bicubic'"):
            ImageTransformSettings(interpolation="bicube")
        with pytest.raises(InputError, match="unknown resize 'sqash': did you mean 'squash'"):
            ImageTransformSettings(resize="sqash")
        with pytest.raises(InputError, match="transform.resize_to 0"):
            ImageTransformSettings(resize_to=0)
        with pytest.raises(InputError, match="resize 'pad' cuts nothing, but resize_to is 40: omit it"):
            ImageTransformSettings(resize="pad", resize_to=40)
        with pytest.raises(InputError, match="resize_to 24 is below the tower's image_size 32: give at least so many pixels"):
            evaluation_transform(32, ImageTransformSettings(resize_to=24))

    @pytest.mark.parametrize("resize", ["crop", "squash"])
    def test_resized_to_more_than_the_tower_sees(self, resize: str) -> None:
        image = torch.randint(0, 256, (3, 60, 47), dtype=torch.uint8)
        side = (40, 40) if resize == "squash" else 40
        steps = [v2.Resize(side, interpolation=InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)]
        found = evaluation_transform(32, ImageTransformSettings(resize=resize, resize_to=40))(image)
        assert torch.equal(found, v2.Compose(steps)(image))


class TestLongImages:
    @pytest.mark.parametrize("resize", ["crop", "floor_crop"])
    @pytest.mark.parametrize("shape", [(4, 60_000), (60_001, 4), (5, 60_000), (7, 1000)])
    def test_only_the_middle_is_resized(self, resize: str, shape: tuple[int, int]) -> None:
        transform = evaluation_transform(32, ImageTransformSettings(resize=resize))
        image = torch.zeros(3, *shape, dtype=torch.uint8)
        axis = 1 if shape[0] > shape[1] else 2
        middle, other = (max(shape) - 1) / 2, min(shape)
        positions = torch.arange(max(shape), dtype=torch.float32) - middle
        ramp = (128 + 100 * positions / other).clamp(0, 255).to(torch.uint8)
        image[:] = ramp[:, None] if axis == 1 else ramp
        found = transform(image).float()
        assert found.shape == (3, 32, 32)
        along = found[0].mean(dim=2 - axis)
        expected = 128 + 100 * (torch.arange(32) - 15.5) / 32
        assert (along - expected).abs().max() <= 5  # a pixel of the crop is 3 levels

    def test_others_are_as_before(self) -> None:
        image = torch.randint(0, 256, (3, 40, 500), dtype=torch.uint8)
        before = v2.Compose([v2.Resize(32, interpolation=InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)])
        assert torch.equal(evaluation_transform(32, ImageTransformSettings())(image), before(image))

    def test_memory(self, tmp_path: Path) -> None:
        """60,000 x 4 took 1.8 GB and a minute."""

        def grown() -> None:
            transform = evaluation_transform(224, ImageTransformSettings())
            transform(torch.zeros(3, 8, 8, dtype=torch.uint8))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            transform(torch.zeros(3, 4, 60_000, dtype=torch.uint8))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

        found = forked(grown, folder=tmp_path)
        assert found.returncode == 0, found.stderr
        assert int(found.stdout) < 100 * 1024  # KiB
