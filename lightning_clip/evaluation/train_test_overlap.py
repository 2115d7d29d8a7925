"""Copies of test images among training images, by perceptual hashes, and what they do to accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_clip.curation.duplicates import close_pairs
from lightning_clip.curation.image_stats import perceptual_hash
from lightning_clip.data.pixel_values import CONVENTION, PixelReading
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.image_grids import picture
from lightning_clip.evaluation.intervals import clopper_pearson, scipy_stats

__all__ = ["Copies", "hashes", "nearest_copies", "overlap_statistics"]

_CHUNK = 1 << 16  # training images compared at a time
Copies = tuple[np.ndarray, np.ndarray]


def nearest_copies(test: np.ndarray, train: np.ndarray, distance: int, chunk: int = _CHUNK) -> Copies:
    """For each test image the training image that differs in the fewest bits, of equal ones the first.

    Args:
        test: uint8 (N, W), perceptual hashes of 8 W bits.
        train: uint8 (M, W).
        distance: bits up to which an image is a copy, less than 8 W.
        chunk: training images compared at a time.

    Returns:
        Places int64 (N,), -1 where no image is that near, and bits int64 (N,), 8 W there.
    """
    place, bits = np.full(len(test), -1, np.int64), np.full(len(test), 8 * test.shape[1], np.int64)
    for start in range(0, len(train), chunk):
        both = np.concatenate([test, train[start : start + chunk]])
        for first, second in close_pairs(both, distance):
            across = (first < len(test)) & (second >= len(test))
            for row, other in zip(first[across].tolist(), second[across].tolist(), strict=True):
                apart = int(np.unpackbits(both[row] ^ both[other]).sum())
                there = start + other - len(test)
                if (apart, there) < (int(bits[row]), int(place[row])) or place[row] < 0:
                    place[row], bits[row] = there, apart
    return place, bits


def overlap_statistics(right: np.ndarray, overlap: np.ndarray, confidence: float = 0.995) -> dict[str, float]:
    """Accuracy on all, clean and overlapping images (Radford et al. 2021, section 5 and figure 17).

    effect = all - clean: what the overlap adds to the reported accuracy. p_value: one-tailed binomial test that accuracy on the
    overlap is greater than on the clean images. low, high: Clopper-Pearson interval of the accuracy on the overlap.

    Args:
        right: bool (N,), N at least 1.
        overlap: bool (N,).
        confidence: of the interval, in (0, 1).

    Returns:
        all and share; clean and effect if any image is clean; overlap, low and high if any overlaps; p_value if both.
    """
    found = {"all": float(right.mean()), "share": float(overlap.mean())}
    hits, many = int(right[overlap].sum()), int(overlap.sum())
    if many < len(right):
        found["clean"] = float(right[~overlap].mean())
        found["effect"] = found["all"] - found["clean"]
    if many:
        found["overlap"] = hits / many
        found["low"], found["high"] = clopper_pearson(hits, many, confidence)
    if 0 < many < len(right):
        found["p_value"] = float(scipy_stats().binomtest(hits, many, found["clean"], alternative="greater").pvalue)
    return found


def hashes(source: PairSource, places: Sequence[int], reading: PixelReading = CONVENTION) -> Copies:
    """Perceptual hashes uint8 (N, 32) and places int64 (N,) of the images that can be read.

    Args:
        source: where they are.
        places: their indices there.
        reading: what is shown of files with more than 8 bits or three bands.
    """
    found, read = [], []
    for place in places:
        if (pixels := picture(source, place, reading)) is not None:
            found.append(perceptual_hash(pixels))
            read.append(place)
    return np.array(found, np.uint8).reshape(-1, 32), np.array(read, np.int64)
