"""JPEGs that a device decodes: the crops of the workers, other formats beside them, and what happens without such a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from pictures import encoded, gradient
from small import small_module, small_trainer, write_folder
from torch import Tensor

from lightning_clip import ClipDataModule, InputError
from lightning_clip.data import encoded as module
from lightning_clip.data.decoding import decode
from lightning_clip.data.encoded import EncodedCrop, EncodedImages, encoded_images, on_device
from lightning_clip.data.transforms import ImageTransformSettings, decode_for, training_transform

CPU = torch.device("cpu")
WHOLE = {"scaled_decoding": None}


@pytest.fixture
def a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose decoder is torchvision's on the CPU, behind the same seam."""
    monkeypatch.setattr("lightning_clip.data.transforms.has_decoder", lambda: True)


def crops(seed: int, *files: bytes, size: int = 24) -> EncodedImages:
    transform: Any = training_transform(size, ImageTransformSettings(decoder="cuda", crop_scale=(0.3, 1.0)))
    torch.manual_seed(seed)
    return encoded_images([transform(decode_for(file, transform)) for file in files])


def by_workers(seed: int, *files: bytes, size: int = 24) -> Tensor:
    transform: Any = training_transform(size, ImageTransformSettings(crop_scale=(0.3, 1.0), scaled_decoding=None))
    torch.manual_seed(seed)
    return torch.stack([transform(decode_for(file, transform)) for file in files])


FILES = [encoded(gradient(97, 61), kind) for kind in ("JPEG", "PNG", "JPEG", "WEBP")]


@pytest.mark.usefixtures("a_device")
class TestPixels:
    @pytest.mark.parametrize("files", [FILES, FILES[:1], FILES[2:]], ids=len)
    def test_as_workers_make_them(self, files: list[bytes]) -> None:
        for seed in range(5):
            images = crops(seed, *files)
            assert len(images.rows) == sum(file.startswith(b"\xff\xd8") for file in files)
            assert torch.equal(on_device(images, CPU), by_workers(seed, *files))

    def test_the_decoder_gets_all_files_at_once(self) -> None:
        calls = []

        def stand_in(files: list[Tensor], device: torch.device) -> list[Tensor]:
            calls.append([len(file) for file in files])
            return [decode(file.numpy().tobytes()) for file in files]

        assert torch.equal(on_device(crops(0, *FILES), CPU, stand_in), by_workers(0, *FILES))
        assert calls == [[len(FILES[0]), len(FILES[2])]]

    def test_a_decoder_that_refuses(self, caplog: pytest.LogCaptureFixture) -> None:
        def refuses(files: list[Tensor], device: torch.device) -> list[Tensor]:
            raise RuntimeError("nvjpeg: unsupported\nby this card")

        assert torch.equal(on_device(crops(0, *FILES), CPU, refuses), by_workers(0, *FILES))
        assert "decoded on the CPU: nvjpeg: unsupported" in caplog.text and "by this card" not in caplog.text

    def test_a_file_that_nobody_reads(self) -> None:
        images = encoded_images([EncodedCrop(b"\xff\xd8\xff not at all \xff\xd9", (0, 0, 8, 8), 4, "bicubic")])
        with pytest.raises(InputError, match=r"a JPEG cannot be decoded \(.*\), too late to be skipped: find it by"):
            on_device(images, CPU)

    def test_what_stays_in_the_workers(self) -> None:
        transform = training_transform(24, ImageTransformSettings(decoder="cuda"))
        for file in (FILES[1], encoded(gradient().convert("CMYK"), "JPEG")):
            assert isinstance(transform(decode_for(file, transform)), Tensor)
        with pytest.raises(ValueError, match="truncated image|undecodable image"):
            decode_for(FILES[0][: len(FILES[0]) // 2], transform)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit(workers: int, a_device: None, tmp_path: Path) -> None:
    """The same batches as with the workers' decoder, bad samples counted alike."""
    table = write_folder(tmp_path, count=40)
    (tmp_path / "3.jpg").write_bytes(b"spoilt")
    runs = []
    for decoder in ("cuda", "cpu"):
        seen = Sees()
        torch.manual_seed(0)
        data = ClipDataModule(str(table), local_batch_size=8, num_workers=workers, max_bad_share=0.1)
        model = small_module(transform={"decoder": decoder, "crop_scale": [0.3, 1.0], **WHOLE})
        small_trainer(tmp_path, max_epochs=1, max_steps=-1, callbacks=[seen]).fit(model, data)
        runs.append(seen.found)
    assert len(runs[0]) == 5 and all(map(torch.equal, *runs))


class Sees(pl.Callback):
    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.found.append(batch.image)


def test_without_a_device(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    transform = training_transform(24, ImageTransformSettings(decoder="cuda"))
    assert isinstance(transform(decode_for(FILES[0], transform)), Tensor)
    assert caplog.text.count("decoder is 'cuda' but there is no CUDA device: the loader's workers decode JPEGs") == 1


def test_errors() -> None:
    with pytest.raises(InputError, match="unknown decoder 'gpu'"):
        ImageTransformSettings(decoder="gpu")
    with pytest.raises(InputError, match="decoder 'cuda' crops and resizes alone, but flip is set"):
        ImageTransformSettings(decoder="cuda", flip=0.5)
    with pytest.raises(InputError, match="decoder 'cuda' crops and resizes alone, but views is set"):
        ImageTransformSettings(decoder="cuda", views=2)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """nvJPEG's pixels, and a resize in float32, beside the CPU's."""
    assert module.has_decoder()
    found = on_device(crops(0, *FILES), torch.device("cuda"))
    assert found.is_cuda and found.dtype == torch.uint8
    difference = (found.cpu().double() - by_workers(0, *FILES).double()).abs()
    assert difference.mean() < 2 and difference.max() < 32
