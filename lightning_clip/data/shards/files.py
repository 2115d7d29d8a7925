"""Open files, a bounded number of them, read at an offset."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

__all__ = ["OpenFiles", "open_files"]


class OpenFiles(threading.local):
    """Keeps the files used last open; a process may read thousands of shards with few descriptors.

    Reads are at an offset, so forked workers that inherit a descriptor do not disturb each other; threads have descriptors
    of their own, so that none closes what another reads.

    Args:
        most: descriptors kept open, fewer where the process may not open many: a quarter of its limit.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a file.

        Raises:
            OSError: the file is missing or shorter than that.
        """
        length = os.fstat(self._descriptor(path)).st_size
        if not 0 <= offset <= offset + size <= length:  # before memory is taken for what a damaged index says
            raise OSError(f"file became shorter while in use: {Path(path).name}")
        found = os.pread(self._descriptor(path), size, offset)
        while len(found) < size:  # one call hands out 2 GiB at most
            more = os.pread(self._descriptor(path), size - len(found), offset + len(found))
            if not more:
                raise OSError(f"file became shorter while in use: {Path(path).name}")
            found += more
        return found

    def forget(self, path: str) -> None:
        """Closes a file that was rewritten."""
        if (descriptor := self._descriptors.pop(path, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Closes all of this thread's files; the next reading opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, path: str) -> int:
        found = self._descriptors.get(path)
        if found is None:
            found = self._descriptors[path] = os.open(path, os.O_RDONLY)
            while len(self._descriptors) > max(1, min(self._most, _limit() // 4)):
                os.close(self._descriptors.popitem(last=False)[1])
        else:
            self._descriptors.move_to_end(path)
        return found


def _limit() -> int:
    """Files that this process may open, asked each time: it may have been lowered since."""
    try:
        import resource
    except ImportError:  # where there is no such limit
        return 1 << 20
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


open_files = OpenFiles()
