"""Photographs and captions as the original libraries prepare them: 200 pictures, the captions of all."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor
from weights.families import clip_tokenizer

from lightning_clip.data.decoding import decode
from lightning_clip.data.tokenizers import tokenizers
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform

SIZE = 224
SETS = {"flickr8k": 100, "fashion_small": 60, "cxr_covid": 40}


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[bytes]:
    """JPEGs of several shapes."""
    found: list[bytes] = []
    for name, count in SETS.items():
        with tarfile.open(next((shared_data / name).glob("*.tar"))) as archive:
            members = (member for member in archive if member.name.lower().endswith((".jpg", ".jpeg")))
            found += [archive.extractfile(member).read() for member, _ in zip(members, range(count), strict=False)]  # type: ignore[union-attr]
    assert len(found) == 200
    return found


def by_open_clip(mode: str) -> Any:
    transform: Any = image_transform_v2(
        PreprocessCfg(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode), is_train=False
    )
    return transform


def by_transformers(processor: Any) -> Any:
    return lambda picture: processor(picture, do_normalize=False, return_tensors="pt")["pixel_values"][0]


SQUARE = {"height": SIZE, "width": SIZE}
LIBRARIES = {
    "crop": by_open_clip("shortest"),
    "squash": by_open_clip("squash"),
    "floor_crop": by_transformers(CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SQUARE)),
    "siglip": by_transformers(SiglipImageProcessor(size=SQUARE, resample=3)),
}


@pytest.mark.parametrize("mode", LIBRARIES)
def test_pixels(mode: str, photographs: list[bytes]) -> None:
    """From the encoded bytes on; PSNR of each picture, so that none hides behind the others."""
    settings = ImageTransformSettings(resize="squash" if mode == "siglip" else mode)
    ours = evaluation_transform(SIZE, settings)
    worst = float("inf")
    for content in photographs:
        theirs = LIBRARIES[mode](Image.open(io.BytesIO(content)).convert("RGB"))
        error = (ours(decode(content)).float() / 255 - theirs).square().mean()
        worst = min(worst, float(10 * torch.log10(1 / error.clamp(min=1e-12))))
    print(f"{mode}: lowest PSNR {worst:.1f} dB")
    assert worst >= 55


def test_tokens_of_clip(shared_data: Path, tmp_path: Path) -> None:
    """transformers' CLIP tokenizer, taken over, gives its own ids."""
    rows = (shared_data / "flickr8k/captions.jsonl").read_text("utf-8").splitlines()[:500]
    captions = [caption for row in rows for value in json.loads(row).values() if isinstance(value, list) for caption in value]
    captions = [caption for caption in captions if isinstance(caption, str)]
    live = clip_tokenizer(tmp_path)
    ours = tokenizers.build({"name": f"hf:{tmp_path}", "context_length": 77})
    assert len(captions) > 1000 and ours.encode(captions) == live(captions, truncation=True, max_length=77)["input_ids"]
