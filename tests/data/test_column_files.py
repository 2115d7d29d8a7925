"""Files of columns: arrays and sounds are read as they were written, and every broken one has a reason in a line."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import wave
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightning_clip.data.column_files import ColumnFile, Columns, column_members, sample_rates
from lightning_clip.data.npy_files import npy_bytes, read_npy
from lightning_clip.data.waves import read_wave, wave_rate

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
KINDS = st.sampled_from(["<f4", ">f8", "<f2", "<i8", "<i2", "u1", "?", "<U5"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def saved(array: Any, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def pcm(samples: np.ndarray, rate: int = 16000) -> bytes:
    """Integers (samples, channels) as a .wav file of their width."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(samples.shape[1])
        sound.setsampwidth(samples.dtype.itemsize)
        sound.setframerate(rate)
        sound.writeframes(samples.astype(samples.dtype.newbyteorder("<")).tobytes())
    return stream.getvalue()


class TestNpy:
    @given(st.data())
    def test_round_trip(self, data: st.DataObject) -> None:
        array = data.draw(arrays.arrays(data.draw(KINDS), data.draw(SHAPES)))
        found = read_npy(npy_bytes(array))
        assert np.shape(found) == array.shape
        np.testing.assert_array_equal(found, array)
        if array.shape:
            assert found.dtype == array.dtype.newbyteorder("=") and found.flags.writeable

    def test_columns_first(self) -> None:
        array = np.asfortranarray(np.arange(6).reshape(2, 3))
        assert (read_npy(saved(array)) == array).all()

    @pytest.mark.parametrize("value", [3, 2.5, True, "AC\u00e9", -(2**62)])
    def test_single_values_stay_what_they_are(self, value: Any) -> None:
        found = read_npy(npy_bytes(value))
        assert found == value and type(found) is type(value)

    def test_tensors(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
            tensor = torch.tensor([1, 0], dtype=dtype)
            assert read_npy(npy_bytes(tensor)).tolist() == tensor.tolist()

    def test_nothing_is_unpickled(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ValueError, match=r"^is a pickled .npy file: save it with allow_pickle=False$"):
            read_npy(saved(np.array([Evil()], dtype=object), pickled=True))
        with pytest.raises(ValueError, match=r"^is no .npy file$"):
            read_npy(pickle.dumps(Evil()))
        assert capsys.readouterr().out == ""

    @given(st.data())
    def test_broken_ones_have_a_reason(self, data: st.DataObject) -> None:
        whole = saved(np.arange(12.0).reshape(3, 4))
        length = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(ValueError, match=r"^is (no .npy file|a .npy file of another length than it says)$"):
            read_npy(whole[:length])
        with pytest.raises(ValueError, match="of another length"):
            read_npy(whole + b"x")

    def test_a_gigantic_shape_takes_no_memory(self) -> None:
        head = saved(np.zeros(1)).replace(b"(1,)", b"(9,)")
        with pytest.raises(ValueError, match="of another length"):
            read_npy(head)
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (2**60, 2**60)})
        with pytest.raises(ValueError, match="of another length"):
            read_npy(stream.getvalue())

    @pytest.mark.parametrize("value", [{"a": 1}, [1, [2, 3]], object(), 2**100])
    def test_what_is_no_array(self, value: Any) -> None:
        with pytest.raises(ValueError, match="^is no array of numbers"):
            npy_bytes(value)


class TestWaves:
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize(("kind", "width"), [(np.uint8, 8), (np.int16, 16), (np.int32, 32)])
    def test_integers(self, kind: type, width: int, channels: int) -> None:
        limits = np.iinfo(kind)
        samples = np.random.default_rng(0).integers(limits.min, limits.max, (50, channels), dtype=kind)
        samples[0], samples[1] = limits.min, limits.max
        found, rate = read_wave(pcm(samples, 22050))
        middle = 128 if kind is np.uint8 else 0
        assert found.shape == (channels, 50) and found.dtype == np.float32 and rate == 22050
        np.testing.assert_allclose(found, ((samples.astype(float) - middle) / 2.0 ** (width - 1)).T, rtol=0, atol=1e-7)
        assert found.min() == -1 and 0.99 < found.max() <= 1

    def test_24_bits(self) -> None:
        values = [-(2**23), -1, 0, 1, 2**23 - 1]
        stream = io.BytesIO()
        with wave.open(stream, "wb") as sound:
            sound.setparams((1, 3, 8000, 0, "NONE", ""))
            sound.writeframes(b"".join(struct.pack("<i", value)[:3] for value in values))
        np.testing.assert_allclose(read_wave(stream.getvalue())[0][0], np.array(values) / 2**23, rtol=1e-7)

    @pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32, np.float64])
    def test_as_scipy_reads_it(self, kind: type) -> None:
        wavfile = pytest.importorskip("scipy.io.wavfile")
        stream = io.BytesIO()
        tone = np.sin(np.arange(200) / 5)[:, None] * [0.9, 0.1]
        samples = tone.astype(kind) if np.dtype(kind).kind == "f" else ((tone * 100) + 128 * (kind is np.uint8)).astype(kind)
        wavfile.write(stream, 8000, samples)
        found, rate = read_wave(stream.getvalue())
        scale = {np.int16: 2**15, np.int32: 2**31, np.uint8: 2**7}.get(kind, 1)
        np.testing.assert_allclose(found, ((samples.astype(float) - 128 * (kind is np.uint8)) / scale).T, atol=1e-7)
        assert rate == wave_rate(stream.getvalue()) == 8000

    def test_floats_without_scipy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = bytearray(pcm(np.zeros((4, 1), np.int32)))
        content[20] = 3  # the format: floats
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(ValueError, match="^is a .wav file in a format that needs scipy: pip install scipy$"):
            read_wave(bytes(content))

    def test_of_unknown_length(self) -> None:
        """As a program that writes into a pipe leaves it."""
        whole = pcm(np.arange(20, dtype=np.int16)[:, None])
        place = whole.index(b"data") + 4
        found, _ = read_wave(whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :])
        assert (found * 2**15).ravel().tolist() == list(range(20))

    @given(st.data())
    def test_broken_ones_have_a_reason(self, data: st.DataObject) -> None:
        whole = pcm(np.arange(20, dtype=np.int16)[:, None])
        with pytest.raises(ValueError, match=r"^is (no .wav file|a .wav file that was cut off)$"):
            read_wave(whole[: data.draw(st.integers(0, len(whole) - 1))])

    @given(st.binary(max_size=80))
    def test_noise(self, content: bytes) -> None:
        assert wave_rate(content) is None
        with pytest.raises(ValueError, match="^is no .wav file$"):
            read_wave(content)


class TestColumns:
    def test_a_file_is_read_when_it_is_asked_for_and_once(self) -> None:
        reads = []

        def read() -> bytes:
            reads.append(1)
            return npy_bytes([1.0])

        columns = Columns({"a": ColumnFile("npy", read), "b": 2, "none": None})
        assert "a" in columns and list(columns) == ["a", "b"] and len(columns) == 2 and not reads
        assert columns["a"].tolist() == columns["a"].tolist() == [1.0] and len(reads) == 1
        assert columns.get("none") is None

    def test_what_cannot_be_read_names_the_column(self) -> None:
        def lost() -> bytes:
            raise FileNotFoundError("image file missing")

        columns = Columns({"depth": ColumnFile("npy", lambda: b"x"), "sound": ColumnFile("wav", lost)})
        with pytest.raises(ValueError, match="^column 'depth' is no .npy file$"):
            columns["depth"]
        with pytest.raises(FileNotFoundError, match="^column 'sound' has no file$"):
            columns["sound"]
        assert sample_rates(columns) == {}

    def test_members(self) -> None:
        sound = pcm(np.zeros((4, 1), np.int16))
        columns = Columns({"GPS": (1.0, 2.0), "sound": ColumnFile("wav", lambda: sound)})
        assert column_members(columns) == {"GPS.npy": npy_bytes([1.0, 2.0]), "sound.wav": sound}
        assert sample_rates(columns) == {"sound.sample_rate": 16000}
        assert column_members({"a": None}) == {}
        with pytest.raises(ValueError, match="column 'deep' is no array of numbers"):
            column_members({"deep": {"a": 1}})
        for name in ("a/b", "_a", ".a", ""):
            with pytest.raises(ValueError, match="cannot be part of a file's name: give it another in the source's columns"):
                column_members({name: 1})
        broken = Columns({"depth": ColumnFile("npy", lambda: b"x")})
        assert column_members(broken) == {"depth.npy": b"x"}
        with pytest.raises(ValueError, match="column 'depth' is no .npy file"):
            column_members(broken, check=True)
