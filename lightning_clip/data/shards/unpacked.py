"""Compressed tar archives, which cannot be read at random: unpacked once into the cache."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import zlib
from pathlib import Path

from filelock import FileLock

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.shards.reader import cache_folder

__all__ = ["COMPRESSED", "unpacked"]

log = logging.getLogger(__name__)
COMPRESSED = (".tar.gz", ".tgz")


def unpacked(path: str) -> str:
    """An uncompressed copy of an archive in the cache, made unless it is there; a changed archive gets another.

    Args:
        path: of a .tar.gz.

    Raises:
        InputError: it is missing, or no gzip file.
    """
    archive = existing_path(path, "tar archive").resolve()
    status = archive.stat()
    name = hashlib.sha256(f"{archive}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:32]
    target = cache_folder() / "unpacked" / f"{name}.tar"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock", timeout=3600):
        if not target.exists():
            log.info("%s is compressed: unpacking it to %s, once", path, target)
            try:
                with beside(target) as place, gzip.open(archive, "rb") as source, place.open("wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise InputError(f"{path!r} cannot be unpacked ({error}): check the file, or unpack it yourself") from error
    Path(f"{target}.lock").unlink(missing_ok=True)
    return str(target)
