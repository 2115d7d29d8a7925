"""Sounds in `.wav` files, as float32 (channels, samples) in [-1, 1] and their sample rate."""

from __future__ import annotations

import io
import wave

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_wave", "wave_rate"]

_UNKNOWN = 0x7FFF0000  # bytes: programs that write into a pipe do not know the length, and say so by a gigantic one


def read_wave(content: bytes) -> tuple[NDArray[np.float32], int]:
    """Samples (channels, samples) in [-1, 1], and their number per second.

    PCM of 8 to 32 bits is read by the standard library, floats and other formats by scipy where it is installed.

    Raises:
        ValueError: no such file, one that was cut off, or a format that needs scipy.
    """
    try:
        with wave.open(io.BytesIO(content)) as sound:
            channels, width, rate = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
            expected = sound.getnframes() * channels * width
            frames = sound.readframes(sound.getnframes())
    except wave.Error as error:
        if "unknown format" in str(error):
            return _by_scipy(content)
        raise ValueError("is no .wav file") from error
    except (EOFError, RuntimeError) as error:
        raise ValueError("is no .wav file") from error
    if len(frames) < expected < _UNKNOWN:
        raise ValueError("is a .wav file that was cut off")
    frames = frames[: len(frames) // (channels * width) * channels * width]
    return _scaled(_integers(frames, width).reshape(-1, channels), 8 * width), rate


def wave_rate(content: bytes) -> int | None:
    """Samples per second as the header says; None where there is no such header."""
    place = content.find(b"fmt ", 12, 4096)
    if content[:4] != b"RIFF" or place < 0 or len(content) < place + 16:
        return None
    return int.from_bytes(content[place + 12 : place + 16], "little")


def _integers(frames: bytes, width: int) -> NDArray[np.int32]:
    """Little-endian integers of 1 to 4 bytes, int32 (N,); those of one byte have no sign."""
    if width == 3:
        bytes_ = np.frombuffer(frames, np.uint8).reshape(-1, 3).astype(np.int32)  # (N, 3)
        found: NDArray[np.int32] = (bytes_[:, 0] << 8 | bytes_[:, 1] << 16 | bytes_[:, 2] << 24) >> 8  # (N, 3) -> (N,)
        return found
    values = np.frombuffer(frames, {1: "u1", 2: "<i2", 4: "<i4"}[width]).astype(np.int32)
    return values - 128 if width == 1 else values


def _scaled(samples: NDArray[np.int32], bits: int) -> NDArray[np.float32]:
    """(samples, channels) of so many bits -> (channels, samples) in [-1, 1]."""
    return np.ascontiguousarray(samples.T / 2.0 ** (bits - 1), dtype=np.float32)


def _by_scipy(content: bytes) -> tuple[NDArray[np.float32], int]:
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise ValueError("is a .wav file in a format that needs scipy: pip install scipy") from error
    try:
        rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # it raises as it likes
        raise ValueError("is no .wav file that can be read") from error
    samples = samples.reshape(len(samples), -1)  # (samples,) or (samples, channels) -> (samples, channels)
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples.T, dtype=np.float32), int(rate)
    values = samples.astype(np.int64) - (128 if samples.dtype == np.uint8 else 0)
    return _scaled(values, 8 * samples.dtype.itemsize), int(rate)
