"""Pictures of other sciences: 16 bits, one channel, many bands, several pages, DICOM."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import IMAGE, small_module, small_trainer
from torch import nn

from lightning_clip import ClipDataModule, InputError
from lightning_clip.cli import main
from lightning_clip.data import ImageTransformSettings, pair_sources
from lightning_clip.data.decoding import decode
from lightning_clip.data.image_steps import Grey
from lightning_clip.data.pixel_values import PixelReading, windowed
from lightning_clip.data.transforms import decode_for, evaluation_transform, training_transform

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 4000, (5, 24, 20), dtype=np.uint16)  # (N, H, W)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def pages(*colours: str) -> bytes:
    buffer = io.BytesIO()
    first, *others = [Image.new("RGB", (6, 4), colour) for colour in colours]
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def dicom(values: np.ndarray, **fields: Any) -> bytes:
    """A CT slice, or what the fields make of it."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=["a test"])
    coloured = values.ndim == 3 and values.shape[-1] == 3
    dataset.Rows, dataset.Columns = values.shape[-3:-1] if coloured else values.shape[-2:]
    dataset.SamplesPerPixel = 3 if coloured else 1
    if coloured:
        dataset.PlanarConfiguration = 0
    elif values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.PhotometricInterpretation = "RGB" if coloured else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


CT = RNG.integers(-1024, 3000, (18, 14), dtype=np.int16)


class TestWindows:
    def test_percentiles_are_numpys(self) -> None:
        values = RNG.normal(300, 80, (1, 30, 40))
        found = windowed(values, PixelReading(percentiles=(5, 95)), (0, 1))
        low, high = np.percentile(values.astype(np.float32), [5, 95])
        wanted = ((values - low) / (high - low) * 255).clip(0, 255)
        assert (found.numpy() - wanted).min() > -1.01 and abs(found.numpy() - wanted).max() < 1.01
        assert 0.03 < (found == 0).float().mean() < 0.08 and 0.03 < (found == 255).float().mean() < 0.08

    def test_each_band_by_itself(self) -> None:
        values = np.stack([np.arange(100), 50 * np.arange(100)]).reshape(2, 10, 10)
        found = windowed(values, PixelReading(percentiles=(0, 100)), (0, 1))
        assert torch.equal(found[0], found[1]) and found.min() == 0 and found.max() == 255

    def test_what_is_not_finite_is_black_and_a_flat_picture_no_fault(self) -> None:
        values = np.array([[[np.nan, 1.0, np.inf, 3.0]]])
        assert windowed(values, PixelReading(percentiles=(0, 100)), (0, 1)).tolist() == [[[0, 0, 0, 255]]]
        assert windowed(np.full((1, 2, 2), np.nan), PixelReading(percentiles=(1, 99)), (0, 1)).sum() == 0
        assert windowed(np.full((1, 2, 2), 7.0), PixelReading(percentiles=(1, 99)), (0, 1)).sum() == 0

    def test_the_transform_passes_it_on(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(100, 900, (40, 40), dtype=np.uint16)).save(buffer, "PNG")
        flat = decode_for(buffer.getvalue(), nn.Identity())
        seen = decode_for(buffer.getvalue(), evaluation_transform(32, ImageTransformSettings.of({"percentiles": [1, 99]})))
        assert flat.max() < 5 and seen.min() == 0 and seen.max() == 255

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"percentiles": [99, 1]}, r"percentiles .* must be two rising numbers in 0..100"),
            ({"window": [0, 1], "percentiles": [1, 99]}, r"say the same: omit one of them"),
            ({"bands": [0, 1, 2]}, r"bands \[0, 1, 2\] must be whole numbers from 1"),
            ({"page": -1}, r"page -1 must be a whole number from 0"),
            ({"channels": 4}, r"channels 4 of image must be 1 or 3"),
            ({"bands": [1, 2, 3, 4], "channels": 3}, r"channels 3 of 4 bands must be 4"),
            ({"channels": 1, "mean": [0.5, 0.5, 0.5]}, r"mean \[0.5, 0.5, 0.5\] has 3 values for 1 channels"),
            ({"bands": [1, 2], "colour_jitter": [0.1, 0.1, 0.1, 0.1]}, r"know colours, not 2 bands"),
        ],
    )
    def test_mistakes(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            ImageTransformSettings.of(given)


class TestTiff:
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_bands_are_chosen_whichever_way_they_lie(self, planar: str) -> None:
        stored = BANDS if planar == "separate" else np.moveaxis(BANDS, 0, -1)
        file = tiff(stored, planarconfig=planar, photometric="minisblack")
        found = decode(file, PixelReading(window=(0, 4095), bands=(4, 3, 2)))
        wanted = torch.from_numpy((BANDS[[3, 2, 1]].astype(np.float32) * (255 / 4095)).astype(np.uint8))
        assert torch.equal(found, wanted)
        assert decode(file, PixelReading(window=(0, 4095), bands=(1, 2, 3, 4, 5))).shape == (5, 24, 20)
        one = decode(file, PixelReading(window=(0, 4095), bands=(4,)))
        assert torch.equal(one, wanted[:1].expand(3, -1, -1))

    def test_pages_are_bands_where_each_has_one(self) -> None:
        file = tiff(BANDS, photometric="minisblack")
        found = decode(file, PixelReading(window=(0, 4095), bands=(4, 3, 2)))
        assert torch.equal(
            found,
            decode(
                tiff(np.moveaxis(BANDS, 0, -1), photometric="minisblack", planarconfig="contig"),
                PixelReading(window=(0, 4095), bands=(4, 3, 2)),
            ),
        )

    def test_without_bands_the_first_three_can_be_seen(self) -> None:
        found = decode(tiff(np.moveaxis(BANDS, 0, -1), planarconfig="contig", photometric="minisblack"))
        assert found.shape == (3, 24, 20) and found.min() == 0 and found.max() == 255

    def test_16_bit_colours_and_floats(self) -> None:
        colours = RNG.integers(0, 65536, (8, 9, 3), dtype=np.uint16)
        found = decode(tiff(colours, photometric="rgb"))
        assert (found.numpy() - np.moveaxis(colours, -1, 0) / 257.0).__abs__().max() < 1
        floats = RNG.random((8, 9, 3), dtype=np.float32)
        assert abs(decode(tiff(floats, photometric="rgb")).numpy() - np.moveaxis(floats, -1, 0) * 255).max() < 1

    def test_pages(self) -> None:
        file = pages("red", "lime", "blue")
        assert [decode(file, PixelReading(page=page))[:, 0, 0].tolist() for page in (0, 1, 2)] == [
            [255, 0, 0],
            [0, 255, 0],
            [0, 0, 255],
        ]
        with pytest.raises(ValueError, match=r"^image has 3 pages, not 4$"):
            decode(file, PixelReading(page=3))

    def test_a_band_that_is_not_there_and_damage(self) -> None:
        file = tiff(np.moveaxis(BANDS, 0, -1), planarconfig="contig", photometric="minisblack")
        with pytest.raises(ValueError, match=r"^image has 5 bands, not 9$"):
            decode(file, PixelReading(bands=(9, 1, 2)))
        for end in range(4, len(file), 311):
            with pytest.raises(ValueError, match=r".") as caught:
                decode(file[:end], PixelReading(bands=(1, 2, 3)))
            assert len(str(caught.value)) < 60

    def test_giants(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ValueError, match="image too large"):
            decode(tiff(np.moveaxis(BANDS, 0, -1), planarconfig="contig", photometric="minisblack"))


class TestDicom:
    def test_rescaled_values_and_window(self) -> None:
        stored = (CT + 1024).astype(np.uint16)
        file = dicom(stored, RescaleSlope="1", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="400")
        low, high = 40 - 0.5 - 399 / 2, 40 - 0.5 + 399 / 2
        wanted = ((CT.astype(float) - low) / (high - low) * 255).clip(0, 255)
        found = decode(file)
        assert found.shape == (3, 18, 14) and abs(found[0].numpy() - wanted).max() <= 1
        lungs = decode(file, PixelReading(window=(-1000, 400)))[0].numpy()
        assert abs(lungs - ((CT.astype(float) + 1000) / 1400 * 255).clip(0, 255)).max() <= 1

    def test_as_pydicom_windows_it(self) -> None:
        import pydicom
        from pydicom.pixels import apply_windowing

        file = dicom(CT, WindowCenter=["100", "400"], WindowWidth=["700", "2000"])
        reference = apply_windowing(CT, pydicom.dcmread(io.BytesIO(file)))
        scaled = (reference - reference.min()) / (reference.max() - reference.min()) * 255
        assert abs(decode(file)[0].numpy() - scaled).max() <= 1

    def test_monochrome1_is_inverted_and_no_window_is_the_range(self) -> None:
        plain, turned = decode(dicom(CT)), decode(dicom(CT, PhotometricInterpretation="MONOCHROME1"))
        assert torch.equal(plain, 255 - turned) and plain.min() == 0 and plain.max() == 255
        exact = decode(dicom(CT, WindowCenter="0", WindowWidth="1000", VOILUTFunction="LINEAR_EXACT"))
        assert abs(exact[0].numpy() - ((CT + 500.0) / 1000 * 255).clip(0, 255)).max() <= 1

    def test_frames_and_colours(self) -> None:
        frames = np.stack([CT, CT.T.reshape(18, 14)])
        assert torch.equal(
            decode(dicom(frames), PixelReading((-1000, 1000), page=1)), decode(dicom(frames[1]), PixelReading((-1000, 1000)))
        )
        with pytest.raises(ValueError, match=r"image has 2 pages, not 3"):
            decode(dicom(frames), PixelReading(page=2))
        colours = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        assert np.array_equal(decode(dicom(colours)).numpy(), np.moveaxis(colours, -1, 0))

    def test_damage_has_a_reason(self) -> None:
        file = dicom(CT)
        for end in (132, 200, len(file) - 50):
            with pytest.raises(ValueError, match=r"DICOM|pixel|bytes|data|length"):
                decode(file[:end])

    def test_in_a_folder_and_a_table(self, tmp_path: Path) -> None:
        for number in range(4):
            (tmp_path / f"{number}.dcm").write_bytes(dicom(CT, InstanceNumber=number))
            (tmp_path / f"{number}.txt").write_text(f"a slice number {number}")
        folder = pair_sources.build(str(tmp_path))
        assert len(folder) == 4 and decode(folder[2].image).shape == (3, 18, 14)
        (tmp_path / "notes.csv").write_text("image,caption\n" + "".join(f"{n}.dcm,slice {n}\n" for n in range(4)))
        assert len(pair_sources.build(str(tmp_path / "notes.csv"))) == 4


@pytest.mark.parametrize(
    ("library", "file", "extra"),
    [("pydicom", dicom(CT), "dicom"), ("tifffile", tiff(BANDS[:, :, :4].T.copy(), planarconfig="contig"), "tiff")],
)
def test_a_library_that_is_missing(library: str, file: bytes, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=rf"lightning-clip\[{extra}\]"):
        decode(file)


class TestChannels:
    def test_grey_keeps_its_values(self) -> None:
        grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
        assert torch.equal(Grey()(grey.expand(3, -1, -1)), grey) and torch.equal(Grey()(grey), grey)

    @pytest.mark.parametrize(
        "tower", [{**IMAGE, "in_chans": 1}, {"name": "small_conv", "image_size": 32, "widths": [8, 16], "channels": 1}]
    )
    def test_a_tower_of_one_channel_trains(self, tower: dict[str, Any], tmp_path: Path) -> None:
        module = small_module(image_encoder=tower, transform={"channels": 1, "crop_scale": [0.5, 1.0]})
        assert module.model.mean.shape == (1, 1, 1, 1)
        small_trainer(tmp_path, max_steps=2).fit(module, scenes())
        assert module.encode_image(Image.new("RGB", (50, 40), "red")).shape == (1, 16)

    def test_four_bands(self, tmp_path: Path) -> None:
        for number in range(8):
            (tmp_path / f"{number}.tif").write_bytes(
                tiff(np.moveaxis(BANDS, 0, -1) // (number + 1), planarconfig="contig", photometric="minisblack")
            )
            (tmp_path / f"{number}.txt").write_text(f"field {number}")
        module = small_module(image_encoder={**IMAGE, "in_chans": 4}, transform={"bands": [5, 4, 3, 2], "window": [0, 4000]})
        data = ClipDataModule(str(tmp_path), local_batch_size=4)
        small_trainer(tmp_path, max_steps=2).fit(module, data)
        assert next(iter(data.train_dataloader())).image.shape == (4, 4, 32, 32)
        assert module.encode_image(tmp_path / "0.tif").shape == (1, 16)

    def test_tower_and_transform_must_agree(self) -> None:
        with pytest.raises(InputError, match=r"takes 3 channels and its transform gives 1: give a timm tower in_chans: 1"):
            assert small_module(transform={"channels": 1}).model
        with pytest.raises(InputError, match=r"takes 1 channels and its transform gives 3"):
            assert small_module(image_encoder={**IMAGE, "in_chans": 1}).model

    def test_training_crops_of_a_jpeg_at_a_fraction(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(buffer, "JPEG")
        transform = training_transform(32, ImageTransformSettings.of({"channels": 1}))
        assert transform(decode_for(buffer.getvalue(), transform)).shape == (1, 32, 32)


def scenes() -> ClipDataModule:
    return ClipDataModule({"name": "synthetic", "size": 16, "image_size": 32}, local_batch_size=4)


def test_inspect_says_which_values_there_are(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(RNG.integers(100, 4000, (40, 40), dtype=np.uint16)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a scan")
    (tmp_path / "9.dcm").write_bytes(dicom(CT))
    (tmp_path / "9.txt").write_text("a slice")
    assert main(["data", "inspect", "--data", str(tmp_path), "--output", str(tmp_path / "sheet.html")]) == 0
    said = (tmp_path / "sheet.html").read_text()
    assert "grey of more than 8 bits, values 1" in said and "DICOM" in said
