"""A look at what a source holds: counts, faults and a few samples of its pairs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lightning_clip.core.errors import reason_of
from lightning_clip.core.types import Pair
from lightning_clip.data.decoding import ONE_TONE, decode, is_one_tone
from lightning_clip.data.jpeg import JPEG_START
from lightning_clip.data.parallel import over_ranges
from lightning_clip.data.picture_kind import PictureKind, picture_kind
from lightning_clip.data.sources.base import PairSource, readable_captions
from lightning_clip.data.write_shard import image_hash

__all__ = ["Inspection", "inspect_pairs"]


@dataclass
class Inspection:
    """Counts of a source.

    Attributes:
        pairs, captions: how many images and texts there are.
        captions_per_image: smallest and largest count.
        words: median and largest number of space-separated words of a caption.
        characters: median and largest number of characters of a caption.
        duplicate_captions: texts that repeat another one.
        languages: ISO 639 code -> count, of the captions looked at; None where py3langid is not installed.
        labels: pairs that have a class.
        sizes: (width, height) -> count, of the images looked at.
        kinds: kind of pictures that are not three times 8 bits ("grey of more than 8 bits") -> least and largest value of each.
        duplicate_images: images with the very bytes of another one, of those looked at.
        broken: reason -> count, of the samples looked at.
        broken_samples: (place in the source, reason) of these.
        one_tone: places of images in which nothing can be seen, of those looked at.
        layout: what the source was read as.
        classes: class name or number -> count, of the samples looked at.
        columns: further column -> kind and shape ("float64 (2,)") -> count, of the samples looked at.
        looked_at: samples whose images and columns were decoded.
        samples: a few (pixels, caption) for the contact sheet.
    """

    pairs: int
    captions: int = 0
    captions_per_image: tuple[int, int] = (0, 0)
    words: tuple[float, int] = (0, 0)
    characters: tuple[float, int] = (0, 0)
    duplicate_captions: int = 0
    languages: Counter[str] | None = None
    labels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    duplicate_images: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    broken_samples: list[tuple[str, str]] = field(default_factory=list)
    one_tone: list[str] = field(default_factory=list)
    layout: str = ""
    classes: Counter[str] = field(default_factory=Counter)
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    looked_at: int = 0
    samples: list[tuple[Tensor, str]] = field(default_factory=list)

    def to_look_at(self) -> list[tuple[str, str]]:
        """(place, reason) of the samples that a person should look at: the broken ones, then those of nearly one tone."""
        return [*self.broken_samples, *((place, ONE_TONE) for place in self.one_tone)]


def inspect_pairs(source: PairSource, images: int = 1000, shown: int = 32, workers: int = 1) -> Inspection:
    """Reads all captions and decodes images spread evenly over the source.

    Args:
        source: any pair source.
        images: how many images to decode at most.
        shown: how many of them to keep for a contact sheet.
        workers: processes that read.
    """
    result = Inspection(pairs=len(source), layout=source.layout)
    _count_texts(source, result, images, workers)
    step = max(1, len(source) // max(1, images))
    chosen = list(range(0, len(source), step))
    shown_step = max(1, len(chosen) // max(1, shown))

    def look_at(number: int, start: int, stop: int) -> list[_Look]:
        return [_look(source, index, shown=place % shown_step == 0) for place, index in enumerate(chosen[start:stop], start)]

    hashes: Counter[bytes] = Counter()
    for _, found in over_ranges(look_at, len(chosen), 100, workers, "decoding"):
        for look in found:
            result.looked_at += 1
            if look.reason:
                result.broken[look.reason] += 1
                result.broken_samples.append((source.place(look.place), look.reason))
                continue
            if look.kind is not None:
                result.kinds.setdefault(look.kind.named, []).append((look.kind.low, look.kind.high))
            if look.one_tone:
                result.one_tone.append(source.place(look.place))
            if look.label is not None:
                result.labels += 1
                result.classes[_class_name(source, look.label)] += 1
            for name, shape in look.columns.items():
                result.columns.setdefault(name, Counter())[shape] += 1
            if look.size is not None:
                result.sizes[look.size] += 1
                hashes[look.digest] += 1
            if look.sample is not None and len(result.samples) < shown:
                result.samples.append(look.sample)
    result.duplicate_images = sum(hashes.values()) - len(hashes)
    return result


class _Look(NamedTuple):
    """What one sample shows; `reason` where it cannot be used."""

    place: int
    reason: str = ""
    size: tuple[int, int] | None = None
    digest: bytes = b""
    label: int | None = None
    one_tone: bool = False
    kind: PictureKind | None = None
    columns: Mapping[str, str] = {}
    sample: tuple[Tensor, str] | None = None


def _look(source: PairSource, index: int, *, shown: bool) -> _Look:
    try:
        pair = source[index]
        columns = {name: _shape(name, value, pair.metadata) for name, value in pair.columns.items() if value is not None}
        if pair.image is None and columns:
            return _Look(index, label=pair.label, columns=columns)
        pixels = decode(pair.image)
        kind = _kind(pair.image)
    except (OSError, ValueError, KeyError) as error:
        return _Look(index, reason_of(error))
    text = pair.captions[0] if pair.captions else _name(pair)
    size = (pixels.shape[2], pixels.shape[1])
    sample = (pixels, text) if shown else None
    return _Look(index, "", size, image_hash(pair.image), pair.label, is_one_tone(pixels), kind, columns, sample)


def _kind(image: Any) -> PictureKind | None:
    """What a picture is if it is not three times 8 bits: what its values mean then has to be said."""
    if not isinstance(image, bytes) or image.startswith(JPEG_START):
        return None
    kind = picture_kind(image)
    return None if kind.eight_bits and kind.form in ("colour", "grey") else kind


def _class_name(source: PairSource, label: int) -> str:
    return source.class_names[label] if label < len(source.class_names) else f"class {label}"


def _name(pair: Pair) -> str:
    """What a sample without captions is called on the contact sheet."""
    return str(pair.metadata.get("class_name", pair.key if pair.label is None else f"class {pair.label}"))


def _shape(name: str, value: Any, metadata: Mapping[str, Any]) -> str:
    """Kind and shape of a column's value, such as "float32 (1, 16000) at 16000 Hz"."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:
            return "lists of different lengths"
    if not isinstance(value, np.ndarray | Tensor):
        return type(value).__name__
    rate = metadata.get(f"{name}.sample_rate")
    kind = str(value.dtype).removeprefix("torch.")
    return f"{kind} {tuple(value.shape)}" + (f" at {rate} Hz" if rate else "")


def _count_texts(source: PairSource, result: Inspection, most: int, workers: int) -> None:
    def read(number: int, start: int, stop: int) -> list[tuple[str, ...]]:
        return [readable_captions(source, index) for index in range(start, stop)]

    several = [own for _, found in over_ranges(read, len(source), 500, workers, "reading captions") for own in found]
    texts = [text for own in several for text in own]
    if not texts:
        return
    counts, lengths, words = [len(own) for own in several], [len(text) for text in texts], [len(text.split()) for text in texts]
    result.captions, result.captions_per_image = len(texts), (min(counts), max(counts))
    result.words = (statistics.median(words), max(words))
    result.characters = (statistics.median(lengths), max(lengths))
    result.duplicate_captions = len(texts) - len(set(texts))
    try:
        from py3langid import classify
    except ImportError:
        return
    result.languages = Counter(classify(text)[0] for text in texts[:: max(1, len(texts) // max(1, most))])
