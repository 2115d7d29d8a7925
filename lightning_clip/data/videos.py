"""Frames of videos, by PyAV: a file or its bytes -> uint8 (T, 3, H, W) of the frames that a sampling rule chooses."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.core.errors import InputError
from lightning_clip.data.frame_places import FrameSampling

__all__ = ["VIDEO_EXTENSIONS", "VideoFrames", "check_av", "is_video", "read_frames", "read_video"]

VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ogv", "wmv", "flv", "3gp")
_LARGEST = 1 << 27  # pixels of a frame; 8K has 2 ** 25
# How files of videos begin. Playlists and session descriptions, which name further files and addresses, never reach FFmpeg.
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")  # of mp4, mov, m4v and 3gp, after a size
_BEGINNINGS = (b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"OggS\0", b"FLV\x01", b"0&\xb2u")
_FORMATS = {"mov", "matroska", "avi", "mpeg", "mpegvideo", "ogg", "flv", "asf"}
_INDEXED = {"mov", "matroska", "webm", "avi"}  # containers that say where each frame stands, so that one can go there


class VideoFrames(NamedTuple):
    """Frames of a video.

    Attributes:
        pixels: uint8 (T, 3, H, W).
        seconds: T, when each is shown, from the beginning of the video.
    """

    pixels: Tensor
    seconds: list[float]


class _Shown(NamedTuple):
    """When frames are shown, in ticks of the stream, rising; and those from which decoding can begin."""

    ticks: list[int]
    keys: list[int]


def is_video(name: str) -> bool:
    """Whether a file's ending is that of a video that is read."""
    return name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS


def check_av() -> Any:
    """PyAV.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError('videos need the package av: pip install "lightning-clip[video]"') from error
    return av


def read_video(content: bytes | str | Path, sampling: FrameSampling | None = None) -> Tensor:
    """The frames of a video that a rule chooses.

    Args:
        content: a file, or its bytes.
        sampling: which frames, and their size; None takes 12 over the whole video at 224 pixels.

    Returns:
        uint8 (T, 3, S, S), or (T, 3, H, W) where no size is asked for; T is at most `sampling.frames`.

    Raises:
        ValueError: no video, one without frames, or a damaged one; the message says which.
        OSError: a file that cannot be read.
        InputError: PyAV is not installed.
    """
    return read_frames(content, sampling).pixels


def read_frames(content: bytes | str | Path, sampling: FrameSampling | None = None) -> VideoFrames:
    """As `read_video`, with the time of each frame.

    Args:
        content: a file, or its bytes.
        sampling: as for `read_video`.

    Raises:
        ValueError: as `read_video`.
        OSError: likewise.
        InputError: likewise.
    """
    sampling = sampling or FrameSampling()
    with _opened(content) as (container, stream):
        shown = _shown(container, stream)
        base = float(stream.time_base or 1)
    seconds = [(tick - shown.ticks[0]) * base for tick in shown.ticks]
    places = sampling.places(len(shown.ticks), seconds)
    with _opened(content) as (container, stream):  # once more from its beginning, which not all formats can go back to
        frames = list(_decoded(container, stream, [shown.ticks[place] for place in places], shown))
    found = [(_sized(frame, sampling.size), seconds[place]) for frame, place in zip(frames, places, strict=True) if frame]
    if 2 * len(found) <= len(places):
        raise ValueError(f"is a damaged video: {len(found)} of {len(places)} frames decode")
    if len({part.shape for part, _ in found}) > 1:
        raise ValueError("is a video whose frames change their size: set size")
    return VideoFrames(torch.stack([part for part, _ in found]), [second for _, second in found])


@contextmanager
def _opened(content: bytes | str | Path) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream; what FFmpeg says of a broken one becomes a ValueError."""
    av = check_av()
    if not isinstance(content, bytes | bytearray):
        # Never by name, which FFmpeg would take for an address.
        with Path(content).open("rb") as file, _container(av, file) as opened:
            yield opened
        return
    with _container(av, io.BytesIO(content)) as opened:
        yield opened


def _check_beginning(head: bytes) -> None:
    """Refuses what does not begin as a video does."""
    if not head:
        raise ValueError("is an empty file")
    if not (head[4:8] in _BOXES or head.startswith(_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")):
        raise ValueError("is no video of a known format (mp4, mov, webm, mkv, avi, mpg, ogv, wmv, flv)")


@contextmanager
def _container(av: Any, file: Any) -> Iterator[tuple[Any, Any]]:
    _check_beginning(file.read(12))
    file.seek(0)
    try:
        with av.open(file) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or _FORMATS.isdisjoint(container.format.name.split(",")):
                raise ValueError("holds no video, or was cut off")
            if (stream.codec_context.width or 0) * (stream.codec_context.height or 0) > _LARGEST:
                raise ValueError("is a video of gigantic frames")
            stream.codec_context.thread_count = 1  # the loader's workers share the cores already
            yield container, stream
    except (av.FFmpegError, EOFError, IndexError) as error:
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())[:120]
        raise ValueError(f"does not decode as a video ({reason})") from error


def _shown(container: Any, stream: Any) -> _Shown:
    """When each frame is shown, by the container alone: nothing is decoded."""
    ticks, keys = [], []
    for packet in container.demux(stream):
        tick = packet.dts if packet.pts is None else packet.pts
        if packet.size and tick is not None and not packet.is_discard:
            ticks.append(tick)
            if packet.is_keyframe:
                keys.append(tick)
    if not ticks:
        raise ValueError("is a video without frames")
    return _Shown(sorted(ticks), sorted(keys))


def _decoded(container: Any, stream: Any, wanted: Sequence[int], shown: _Shown) -> Iterator[Any]:
    """The frame that is shown at each of rising ticks, None where it does not decode."""
    frames, current = container.decode(stream), None
    seeks = not _INDEXED.isdisjoint(container.format.name.split(","))
    for tick in wanted:
        place = bisect_right(shown.keys, tick) - 1
        reached = -1 if current is None else current.pts or 0
        if (
            seeks and current is not None and place > 0 and shown.keys[place] > reached
        ):  # all frames between them are not needed
            container.seek(shown.keys[place], stream=stream)
            frames, current = container.decode(stream), None
        while current is None or (current.pts is not None and current.pts < tick):
            current = _next(frames)
            if current is None:
                break
        yield current
        if current is None:
            frames = iter(())


def _next(frames: Iterator[Any]) -> Any:
    """The next frame that decodes; None at the end, and where what follows is damaged."""
    av = check_av()
    try:
        return next(frames, None)
    except (av.FFmpegError, EOFError):
        return None


def _sized(frame: Any, size: int | None) -> Tensor:
    """A frame upright, uint8 (3, H, W), or the middle of it, (3, size, size)."""
    whole = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # as phones record
    if turns:
        whole = torch.rot90(whole, turns, dims=(1, 2))
    if size is None or whole.shape[1:] == (size, size):
        return whole.contiguous()
    small = pixels.resize(whole, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    middle: Tensor = pixels.center_crop(small, [size, size])
    return middle.contiguous()
