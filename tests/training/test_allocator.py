"""Freed memory stays with the process, so that the next step's activations cost no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_clip.training import allocator

# In a process of its own, without PyTorch: page faults of one and the same block, asked for again and again.
FAULTS = """
import ctypes, resource, runpy, sys
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults(size=2**26):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults() for _ in range(3)][-1]
assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
print(usual, [faults() for _ in range(3)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_block_that_was_freed_is_had_again_without_page_faults() -> None:
    command = [sys.executable, "-c", FAULTS, str(Path(allocator.__file__))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    usual, kept = map(int, found.stdout.split())
    assert kept < 100 < usual


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
