"""Peak memory of a piece of work on the CPU (Linux): the growth of the resident set's high-water mark."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path


def peak_bytes(work: Callable[[], object]) -> int:
    """Runs `work` and says by how much the process grew at its peak; run small work first, so that libraries are loaded."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is resident now
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
