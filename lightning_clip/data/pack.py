"""Shards from any source, and a look at what a source holds: pairs arrive, tar files, counts and a contact sheet leave."""

from __future__ import annotations

import io
import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.progress import track
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from lightning_clip.data.decoding import decode
from lightning_clip.data.sources import PairSource
from lightning_clip.errors import InputError
from lightning_clip.types import Pair

__all__ = ["Inspection", "PackSummary", "inspect_pairs", "pack_shards"]


@dataclass
class PackSummary:
    """What was written and what was left out, by reason."""

    shards: list[Path] = field(default_factory=list)
    pairs: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def pack_shards(source: PairSource, pattern: str, pairs_per_shard: int = 10_000, *, check: bool = False) -> PackSummary:
    """Writes a source as WebDataset shards; each shard appears under its name only when it is complete.

    Args:
        source: any pair source.
        pattern: of the shard names with one printf number, such as "shards/train-%06d.tar".
        pairs_per_shard: pairs in each shard but the last.
        check: decode each image and drop those that do not.

    Raises:
        InputError: a pattern without a number, shards that exist already, or nothing to write.
    """
    from webdataset import TarWriter

    try:
        first = Path(pattern % 0)
    except TypeError as error:
        raise InputError(f"shard pattern {pattern!r} needs one number, such as 'train-%06d.tar'") from error
    if first.exists():
        raise InputError(f"{str(first)!r} exists already: remove the old shards or choose another name")
    first.parent.mkdir(parents=True, exist_ok=True)
    summary = PackSummary()
    good = _good_pairs(source, summary, check)
    while (pair := next(good, None)) is not None:
        path = Path(pattern % len(summary.shards))
        beside = path.with_suffix(".tar.partial")
        with beside.open("wb") as stream:
            writer = TarWriter(stream, encoder=False)
            for number in range(pairs_per_shard):
                writer.write(_members(pair, summary.pairs))
                summary.pairs += 1
                if number + 1 == pairs_per_shard or (pair := next(good, None)) is None:  # type: ignore[assignment]
                    break
            writer.close()
        beside.replace(path)
        summary.shards.append(path)
        summary.bytes += path.stat().st_size
    if not summary.pairs:
        raise InputError(f"no pair could be packed: {dict(summary.dropped)}")
    return summary


def _good_pairs(source: PairSource, summary: PackSummary, check: bool) -> Iterator[Pair]:
    for index in track(range(len(source)), description="packing"):
        try:
            pair = source[index]
            if check:
                decode(pair.image)
        except (OSError, ValueError) as error:
            summary.dropped[str(error)] += 1
            continue
        if not pair.captions and pair.label is None:
            summary.dropped["no caption"] += 1
            continue
        yield pair


def _members(pair: Pair, number: int) -> dict[str, str | bytes]:
    image = pair.image
    if isinstance(image, Tensor):
        buffer = io.BytesIO()
        to_pil_image(image).save(buffer, format="PNG")
        image = buffer.getvalue()
    members: dict[str, str | bytes] = {"__key__": f"{number:09d}", _extension(image): image}
    if pair.captions:
        members["txt"] = pair.captions[0].encode()
        record = {"caption": list(pair.captions), "key": pair.key}
        members["json"] = json.dumps(record, ensure_ascii=False).encode()
    if pair.label is not None:
        members["cls"] = str(pair.label).encode()
    return members


def _extension(image: bytes) -> str:
    """The usual extension of encoded bytes; unknown formats keep the name of none in particular and are found as jpg."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return {"JPEG": "jpg", "TIFF": "tif"}.get(opened.format or "", (opened.format or "jpg").lower())
    except (OSError, SyntaxError):
        return "jpg"


@dataclass
class Inspection:
    """Counts of a source.

    Attributes:
        pairs, captions: how many images and texts there are.
        captions_per_image: smallest and largest count.
        words: median and largest number of space-separated words of a caption.
        characters: median and largest number of characters of a caption.
        duplicate_captions: texts that repeat another one.
        labels: pairs that have a class.
        sizes: (width, height) -> count, of the images looked at.
        broken: reason -> count, of the images looked at.
        looked_at: images that were decoded.
        samples: a few (pixels, caption) for the contact sheet.
    """

    pairs: int
    captions: int = 0
    captions_per_image: tuple[int, int] = (0, 0)
    words: tuple[float, int] = (0, 0)
    characters: tuple[float, int] = (0, 0)
    duplicate_captions: int = 0
    labels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    samples: list[tuple[Tensor, str]] = field(default_factory=list)


def inspect_pairs(source: PairSource, images: int = 1000, shown: int = 32) -> Inspection:
    """Reads all captions and decodes images spread evenly over the source.

    Args:
        source: any pair source.
        images: how many images to decode at most.
        shown: how many of them to keep for a contact sheet.
    """
    result = Inspection(pairs=len(source))
    texts: list[str] = []
    counts = []
    for index in track(range(len(source)), description="reading captions"):
        captions = source.captions(index)
        counts.append(len(captions))
        texts += captions
    if texts:
        lengths, words = [len(text) for text in texts], [len(text.split()) for text in texts]
        result.captions, result.captions_per_image = len(texts), (min(counts), max(counts))
        result.words = (statistics.median(words), max(words))
        result.characters = (statistics.median(lengths), max(lengths))
        result.duplicate_captions = len(texts) - len(set(texts))
    step = max(1, len(source) // images)
    chosen = range(0, len(source), step)
    shown_step = max(1, len(chosen) // shown)
    for number, index in enumerate(track(chosen, description="decoding images")):
        result.looked_at += 1
        try:
            pair = source[index]
            pixels = decode(pair.image)
        except (OSError, ValueError) as error:
            result.broken[str(error)] += 1
            continue
        result.labels += pair.label is not None
        result.sizes[(pixels.shape[2], pixels.shape[1])] += 1
        if number % shown_step == 0 and len(result.samples) < shown:
            result.samples.append((pixels, pair.captions[0] if pair.captions else f"class {pair.label}"))
    return result
