"""Opening a table of a million captions: the first time, from the second time on, and by pandas, which keeps nothing.

CPU time of a process of its own each, imports not counted; images are named and not read.

    python benchmarks/tables.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, machine, write_section


def write_table(path: Path, rows: int) -> None:
    """A row for each image, with a caption and two numbers."""
    with path.open("w") as file:
        for number in range(rows):
            caption = f"a photo number {number} of a dog on the grass near the house"
            image = f"images/{number // 1000:04d}/{number:08d}.jpg"
            file.write(json.dumps({"image": image, "caption": caption, "width": 640, "height": 480}) + "\n")


def opening(path: Path, how: str) -> float:
    """Seconds of CPU time."""
    if how == "pandas":
        import pandas

        begun = time.process_time()
        count = len(pandas.read_json(path, lines=True))
    else:
        from lightning_clip.data.sources.tables import TableSource

        begun = time.process_time()
        count = len(TableSource(str(path), images="."))
    assert count > 0
    return time.process_time() - begun


def measured(path: Path, how: str, cache: Path) -> float:
    """`opening` in a process of its own, with a cache folder."""
    command = [sys.executable, __file__, "--open", str(path), "--how", how]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "LIGHTNING_CLIP_CACHE": str(cache)}
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open is not None:
        print(opening(arguments.open, arguments.how))
        return
    found: dict[str, list[float]] = {"pandas": [], "first": [], "again": []}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "captions.jsonl"
        write_table(path, arguments.rows)
        for number in range(arguments.rounds):
            cache = Path(name) / f"cache{number}"
            found["pandas"].append(measured(path, "pandas", cache))
            found["first"].append(measured(path, "here", cache))
            found["again"].append(measured(path, "here", cache))
    peer, first, again = (statistics.median(found[key]) for key in ("pandas", "first", "again"))
    what = f"{arguments.rows:,} rows of jsonl, CPU time"
    rows = [
        Row(f"{what}, the first time", f"{peer:.1f} s", f"{first:.1f} s", f"{peer / first:.2f}x"),
        Row(f"{what}, from then on", f"{peer:.1f} s", f"{again:.2f} s", f"{peer / again:.0f}x"),
    ]
    write_section("tables", "Opening a large table", machine(1, arguments.rounds), rows, ("pandas", "lightning_clip"))


if __name__ == "__main__":
    main()
