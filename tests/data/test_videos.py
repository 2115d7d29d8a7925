"""Frames of videos: which are chosen, that they are the right ones, and what is said of files that are none."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import brightness, video_bytes, write_video

from lightning_clip import InputError
from lightning_clip.data.frame_places import FrameSampling, frame_places, thinned
from lightning_clip.data.videos import read_frames, read_video


def test_rules_are_those_of_clip4clip() -> None:
    """Against whole numbers, for all lengths."""
    for total in range(1, 70):
        for most in range(1, 14):
            expected = list(range(total))
            if total > most:
                expected = [0] if most == 1 else [number * (total - 1) // (most - 1) for number in range(most)]
            assert frame_places(total, most) == expected, (total, most)
            assert frame_places(total, most, "head") == list(range(total))[:most]
            assert frame_places(total, most, "tail") == list(range(total))[-most:]


def test_random_draws_one_frame_of_each_segment() -> None:
    torch.manual_seed(0)
    seen = [frame_places(40, 8, "random") for _ in range(200)]
    for places in seen:
        assert all(5 * number <= place < 5 * number + 5 for number, place in enumerate(places))
    assert {place for places in seen for place in places} == set(range(40))
    torch.manual_seed(7)
    first = frame_places(40, 8, "random")
    torch.manual_seed(7)
    assert frame_places(40, 8, "random") == first


def test_frames_a_second() -> None:
    assert thinned([number / 25 for number in range(100)], 1) == [0, 25, 50, 75]
    assert thinned([number / 25 for number in range(101)], 2) == [0, 12, 25, 37, 50, 62, 75, 87, 100]
    assert thinned([0.0, 10.0], 1) == [0, 1]  # a frame that stands for long is seen once
    assert FrameSampling(frames=3, fps=1).places(100, [number / 25 for number in range(100)]) == [0, 25, 75]


FORMS = [("mpeg4", "mp4"), ("libx264", "mp4"), ("libx264", "matroska"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"),
         ("mpeg2video", "mpeg"), ("libx264", "flv")]  # fmt: skip


@pytest.mark.parametrize(("codec", "form"), FORMS)
def test_the_frames_are_those_that_were_asked_for(codec: str, form: str) -> None:
    content = video_bytes(24, codec=codec, form=form, keys=5)
    for rule in ("uniform", "head", "tail"):
        found = read_frames(content, FrameSampling(frames=5, sampling=rule, size=None))
        assert brightness(found.pixels) == frame_places(24, 5, rule), rule
        assert found.pixels.shape == (5, 3, 32, 32) and found.pixels.dtype == torch.uint8
    assert found.seconds == pytest.approx([1.9, 2.0, 2.1, 2.2, 2.3], abs=0.01)


def test_sizes(tmp_path: Path) -> None:
    """The middle square, brought to a size; a path reads as bytes do."""
    wide = [np.zeros((32, 64, 3), np.uint8) for _ in range(3)]
    for picture in wide:
        picture[:, 16:48] = 200
    path = write_video(tmp_path / "wide.mp4", wide, codec="libx264")
    found = read_video(path, FrameSampling(size=16))
    assert found.shape == (3, 3, 16, 16) and found[..., 1:-1].min() > 180
    assert torch.equal(found, read_video(path.read_bytes(), FrameSampling(size=16)))
    assert read_video(path, FrameSampling(size=None)).shape == (3, 3, 32, 64)


def test_upright() -> None:
    """Phones record lying and note how to turn it: here 90 degrees clockwise, so that what is left comes on top."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24] = 200
    content = bytearray(video_bytes([picture] * 3))
    at = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    found = read_video(bytes(content), FrameSampling(size=None))
    assert found.shape == (3, 3, 48, 32)
    assert found[:, :, :20].float().mean() > 180 and found[:, :, 28:].float().mean() < 20


def sound_alone() -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return buffer.getvalue()


def test_what_is_no_video(tmp_path: Path) -> None:
    whole = video_bytes(12)
    secret = write_video(tmp_path / "secret.mp4", 3)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    for content, message in (
        (b"", "is an empty file"),
        (b"hello " * 100, "is no video of a known format"),
        (whole[: len(whole) // 2], "holds no video, or was cut off"),
        (playlist, "is no video of a known format"),  # and nothing that it names is read
        (sound_alone(), "holds no video"),
    ):
        with pytest.raises(ValueError, match=message):
            read_video(content)


def test_a_damaged_video() -> None:
    content = bytearray(video_bytes(24, codec="libx264", form="matroska", size=64))
    content[600:-600] = bytes(len(content) - 1200)
    with pytest.raises(ValueError, match="is a damaged video|without frames|does not decode"):
        read_video(bytes(content))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r'videos need the package av: pip install "lightning-clip\[video\]"'):
        read_video(b"x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "middle"}, "unknown sampling 'middle'"),
        ({"frames": 0}, "frames 0 must be"),
        ({"fps": 0}, "fps 0 must be"),
        ({"size": 0}, "size 0 must be"),
    ],
)
def test_wrong_rules(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrameSampling(**settings)  # type: ignore[arg-type]
