"""Pictures on the command line: files, folders, patterns with stars, and http addresses, read when their turn comes."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_clip.core.errors import InputError, existing_path

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.data.pixel_values import PixelReading

__all__ = ["LARGEST", "PICTURE_HELP", "GivenPicture", "decoded", "given_pictures"]

PICTURE_HELP = "picture: a file, a folder with all that is in it, a pattern in quotes ('photos/*.jpg'), or an http(s) address"
LARGEST = 64 << 20  # bytes of a picture from an address
_STALL, _TRIES = 20.0, 2  # seconds of silence, and tries, before an address is given up
_STARS = "*?["


class GivenPicture(NamedTuple):
    """A picture that a command was given, not read yet.

    Attributes:
        place: its path or address.
        name: of it in a table: the last part, or all below the folder that was named.
        read: its encoded bytes, whenever they are asked for.
        is_named: by itself, and not only by its folder or by a pattern.
    """

    place: str
    name: str
    read: Callable[[], bytes]
    is_named: bool = True


def given_pictures(given: Sequence[str]) -> list[GivenPicture]:
    """What the arguments name, in their order; pictures of a folder or a pattern sorted by path.

    Args:
        given: paths, folders, patterns and addresses.

    Raises:
        InputError: a path that does not exist, a folder or pattern without pictures, or an address that is no http(s) one.
    """
    return [picture for text in given for picture in _named_by(text)]


def decoded(picture: GivenPicture, reading: PixelReading) -> Tensor:
    """A picture as uint8 (3, H, W).

    Args:
        picture: one of `given_pictures`.
        reading: what the model wants to see of files with more than 8 bits or three bands.

    Raises:
        InputError: it cannot be fetched, read or decoded.
    """
    from lightning_clip.data.decoding import decode  # here and below: --help must not wait for torch

    try:
        return decode(picture.read(), reading)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"image {picture.place!r} cannot be read: {error}. Give a JPEG, PNG, WebP, GIF, BMP or TIFF."
        ) from error


def _named_by(text: str) -> Iterator[GivenPicture]:
    from lightning_clip.data.shards.addresses import is_http, is_url, shown, without_scheme

    text = without_scheme(text)
    if is_url(text):
        if not is_http(text):
            raise InputError(f"image {shown(text)!r} cannot be fetched: give a path, or an address that begins with https://")
        place = shown(text)
        yield GivenPicture(place, place.rpartition("/")[2] or place, lambda: _fetched(text))
        return
    if any(star in text for star in _STARS) and not Path(text).expanduser().exists():
        yield from _matching(text)
        return
    path = existing_path(text, "image")
    if path.is_dir():
        yield from _inside(text)
    else:
        yield GivenPicture(text, path.name, path.read_bytes)


def _matching(pattern: str) -> Iterator[GivenPicture]:
    from lightning_clip.data.file_tree import is_image

    found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207  (Path.glob takes no whole paths)
    pictures = [path for path in found if is_image(path) and Path(path).is_file()]
    if not pictures:
        what = f"its {len(found)} matches are no pictures" if found else "nothing matches it"
        raise InputError(f"pattern {pattern!r} names no picture: {what}")
    for path in pictures:
        yield GivenPicture(path, Path(path).name, Path(path).read_bytes, is_named=False)


def _inside(folder: str) -> Iterator[GivenPicture]:
    from lightning_clip.data.file_tree import FileTree, is_image, unread_images

    tree = FileTree(folder)
    names = tree.names()
    pictures = [name for name in names if is_image(name)]
    if not pictures:
        others = unread_images(names)
        raise InputError(
            f"folder {folder!r} holds no picture that can be read"
            + (
                f" ({others}): convert them to jpg or png"
                if others
                else ": give one with jpg, png, webp, gif, bmp or tiff files"
            )
        )
    for name in pictures:
        yield GivenPicture(f"{folder.rstrip('/')}/{name}", name, lambda name=name: tree.read(name), is_named=False)  # type: ignore[misc]


def _fetched(url: str) -> bytes:
    """What an address sends, of no more than `LARGEST` bytes."""
    from lightning_clip.data.shards.remote import Remote
    from lightning_clip.data.shards.remote_errors import RemoteError

    with tempfile.TemporaryDirectory(prefix="lightning-clip-") as folder:
        target = Path(folder) / "picture"
        target.touch()
        try:
            Remote(tries=_TRIES, stall=_STALL).download(url, target, None, most=LARGEST)
        except RemoteError as error:
            raise InputError(f"image {error}: check the address and the network, or give a file") from error
        return target.read_bytes()
