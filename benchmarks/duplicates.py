"""How far perceptual hashes of copies and of other pictures are apart, in bits of 256; the ground of `duplicates.perceptual`.

400 pictures of each set are copied (JPEG quality 50; half the size) and compared with themselves and with 1,500 others.
Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/duplicates.py
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from report import Row, machine, write_section
from torchvision.transforms.v2.functional import to_pil_image

from lightning_clip.curation.image_stats import perceptual_hash
from lightning_clip.data import TableSource
from lightning_clip.data.decoding import decode, from_pil

SETS = {"fashion_small": ("images.tar", "title"), "flickr8k": ("images_144.tar", "en")}


def main() -> None:
    """Measures both sets and writes."""
    folder = os.environ.get("LIGHTNING_CLIP_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit("benchmarks/duplicates.py: LIGHTNING_CLIP_DATA does not name the folder of real pairs")
    rows = []
    for name, (images, column) in SETS.items():
        source = TableSource(f"{folder}/{name}/captions.jsonl", images, caption_column=column)
        places = range(0, len(source), len(source) // 1500)
        pictures = [to_pil_image(decode(source[place].image)) for place in places][:1500]
        hashes = np.stack([hashed(picture) for picture in pictures])
        copies = [np.stack([hashed(copied(picture, *how)) for picture in pictures[:400]]) for how in ((50, 1.0), (85, 0.5))]
        apart = [bits(own, hashes[:400]) for own in copies]
        others = np.array([np.delete(bits(hashes, own), place).min() for place, own in enumerate(hashes)])
        quality, size = (f"{np.percentile(found, 99):.0f}" for found in apart)
        nearest = f"{np.percentile(others, 1):.0f}; {100 * (others <= 12).mean():.1f} %"
        rows.append(Row(name, f"{quality} / {size}", nearest, ""))
    write_section(
        "duplicates",
        "Bits of 256 in which perceptual hashes differ",
        machine(1, 1),
        rows,
        heads=(
            "copies at quality 50 / half the size, 99th percentile",
            "nearest other picture, 1st percentile; within 12 bits",
        ),
    )


def hashed(picture: Image.Image) -> np.ndarray:
    return perceptual_hash(from_pil(picture))


def copied(picture: Image.Image, quality: int, scale: float) -> Image.Image:
    buffer = io.BytesIO()
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    small.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differing bits of each row."""
    return np.unpackbits(first ^ second, axis=1).sum(axis=1)


if __name__ == "__main__":
    main()
