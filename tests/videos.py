"""Small real videos, written with PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["brightness", "video_bytes", "write_video"]


def video_bytes(
    frames: Sequence[np.ndarray] | int, *, codec: str = "mpeg4", form: str = "mp4", fps: int = 10, size: int = 32, keys: int = 6
) -> bytes:
    """A video of frames (H, W, 3), or of so many grey ones, the i-th of which has brightness 10 i."""
    import av

    pictures = [np.full((size, size, 3), 10 * i, np.uint8) for i in range(frames)] if isinstance(frames, int) else frames
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", keys
        stream.bit_rate = 4_000_000
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def write_video(path: Path, frames: Sequence[np.ndarray] | int = 12, **settings: object) -> Path:
    """A video file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(video_bytes(frames, **settings))  # type: ignore[arg-type]
    return path


def brightness(pixels: object) -> list[int]:
    """Which of the grey frames each of (T, 3, H, W) is."""
    return [round(float(frame.float().mean()) / 10) for frame in pixels]  # type: ignore[attr-defined]
