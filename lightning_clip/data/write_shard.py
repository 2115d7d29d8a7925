"""The writing of one shard: a range of a source as a tar file, with a report beside it."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize, to_pil_image

from lightning_clip.core.atomic import beside, removed_on_failure
from lightning_clip.core.errors import InputError, nearest, reason_of
from lightning_clip.core.types import TEACHERS, Pair
from lightning_clip.data.column_files import column_members
from lightning_clip.data.decoding import decode
from lightning_clip.data.shards.remote_errors import check_lasting
from lightning_clip.data.sources.base import PairSource

__all__ = ["PackOptions", "Packer", "ShardReport", "image_hash"]

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_OWN = {"caption", "key", "weights", "sha256"}


@dataclass(frozen=True)
class PackOptions:
    """What is done with each pair on its way.

    Args:
        check: decode each image, and each further column that is a file, and drop the pairs of those that do not.
        resize: the shorter side becomes at most so many pixels; smaller images stay as they are. Implies `check`.
        encode: "jpg", "png" or "webp": encodes all images again; None keeps their bytes unless they were resized (then jpg).
        quality: of jpg and webp, 1 to 100.
        hash: put the SHA-256 of the image as it was into the record.
        dedupe: drop images whose bytes are those of an earlier one.
    """

    check: bool = False
    resize: int | None = None
    encode: str | None = None
    quality: int = 90
    hash: bool = False
    dedupe: bool = False

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise InputError(f"resize {self.resize} must be at least 1 pixel")
        if self.encode is not None and self.encode not in _FORMATS:
            raise InputError(f"unknown encode {self.encode!r}: {nearest(self.encode, _FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality {self.quality} must be in 1..100")


@dataclass
class ShardReport:
    """Counts of a shard, under img2dataset's names, and which samples are not in it.

    Attributes:
        count, successes: samples looked at, and written.
        status_dict: reason -> samples dropped.
        lost: [place in the source, key, reason] of each.
        settings: what the shard was packed with.
    """

    count: int = 0
    successes: int = 0
    status_dict: dict[str, int] = field(default_factory=dict)
    lost: list[list[Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def path(shard: Path) -> Path:
        """Where the report of a shard stands."""
        return shard.with_name(f"{shard.stem}_stats.json")


class Packer:
    """Writes shards of a source; one object serves all worker processes.

    Args:
        source: any pair source.
        pattern: of the shard names.
        options: what is done with each pair.
        settings: noted in each report.
    """

    def __init__(self, source: PairSource, pattern: str, options: PackOptions, settings: Mapping[str, Any]) -> None:
        self.source, self.pattern, self.options, self.settings = source, pattern, options, dict(settings)
        self.repeats: np.ndarray | None = None

    def hashes(self, number: int, start: int, stop: int) -> np.ndarray:
        """SHA-256 of the images of a range, bytes (N,); empty where an image cannot be read."""
        found = []
        for index in range(start, stop):
            try:
                found.append(image_hash(self.source[index].image))
            except (OSError, ValueError, KeyError):
                found.append(b"")
        return np.array(found, dtype="S64")

    def write(self, number: int, start: int, stop: int) -> ShardReport:
        """Shard `number` from samples [start, stop)."""
        from webdataset import TarWriter

        path = Path(self.pattern % number)
        report, dropped = ShardReport(count=stop - start, settings=self.settings), Counter[str]()
        partial = path.with_suffix(".tar.partial")
        # Fixed times and owners: the same pairs give the same bytes.
        fixed = {"encoder": False, "mtime": 0, "user": "", "group": ""}
        with removed_on_failure(partial), partial.open("wb") as stream, TarWriter(stream, **fixed) as writer:
            for index in range(start, stop):
                try:
                    members = self._members(index)
                except (OSError, ValueError, KeyError) as error:
                    check_lasting(error)
                    reason = reason_of(error)
                    dropped[reason] += 1
                    report.lost.append([index, reason])
                    continue
                writer.write(members)
                report.successes += 1
        report.status_dict = dict(dropped)
        stats = ShardReport.path(path)
        with beside(stats) as place:
            place.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=1), encoding="utf-8")
        if report.successes:
            partial.replace(path)
        else:
            partial.unlink()
        return report

    def _members(self, index: int) -> dict[str, str | bytes]:
        if self.repeats is not None and self.repeats[index]:
            raise ValueError("duplicate image")
        pair = self.source[index]
        columns = column_members(pair.columns, self.options.check)
        if not pair.captions and pair.label is None and not columns:
            raise ValueError("no caption")
        if pair.image is None and not columns:
            raise ValueError("no image")
        members: dict[str, str | bytes] = {"__key__": f"{index:09d}"}
        if pair.image is not None:
            image, extension = self._image(pair)
            members[extension] = image
        if pair.captions:
            members["txt"] = pair.captions[0].encode("utf-8", "replace")
        if pair.label is not None:
            members["cls"] = str(pair.label).encode()
        members["json"] = json.dumps(self._record(pair), ensure_ascii=False).encode("utf-8", "replace")
        if TEACHERS in pair.metadata:
            members[TEACHERS] = pair.metadata[TEACHERS]
        return {**members, **columns}

    def _record(self, pair: Pair) -> dict[str, Any]:
        record: dict[str, Any] = {key: value for key, value in pair.metadata.items() if key not in _OWN and _plain(value)}
        if pair.captions:
            record["caption"] = list(pair.captions)
        if pair.weights is not None:
            record["weights"] = list(pair.weights)
        if self.options.hash and pair.image is not None:
            record["sha256"] = image_hash(pair.image).decode()
        return {**record, "key": pair.key}

    def _image(self, pair: Pair) -> tuple[bytes, str]:
        """Encoded bytes and their extension."""
        options, image = self.options, pair.image
        whole = decode(image) if options.check or options.resize or options.encode or isinstance(image, Tensor) else None
        shrinks = whole is not None and options.resize is not None and min(whole.shape[1:]) > options.resize
        if isinstance(image, bytes) and not shrinks and options.encode in (None, _extension(image)):
            return image, _extension(image)
        assert whole is not None
        if shrinks:
            whole = resize(whole, [options.resize], interpolation=InterpolationMode.BICUBIC, antialias=True)
        extension = options.encode or ("png" if isinstance(image, Tensor) else "jpg")
        buffer = io.BytesIO()
        to_pil_image(whole).save(buffer, _FORMATS[extension], quality=options.quality)
        return buffer.getvalue(), extension


def image_hash(image: bytes | Tensor | None) -> bytes:
    """SHA-256 of encoded bytes, or of pixels uint8 (3, H, W), in hexadecimal.

    Raises:
        ValueError: no image.
    """
    if image is None:
        raise ValueError("no image")
    content = image if isinstance(image, bytes) else image.contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest().encode()


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | None)


def _extension(image: bytes) -> str:
    """The usual extension of encoded bytes; unknown formats keep the name of none in particular and are found as jpg."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(opened.format or "", (opened.format or "jpg").lower())
    except (OSError, SyntaxError, ValueError):
        return "jpg"
