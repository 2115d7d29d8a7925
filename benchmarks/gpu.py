"""On a GPU: first that losses and steps are right, then their time and memory beside open_clip's and siglip-kernel's.

    python benchmarks/gpu.py --minutes 6     # writes its sections of docs/benchmarks.md, and gpu.md and gpu.json to $OUT
    python benchmarks/gpu.py --minutes 8 --unchecked   # the tables alone
    python benchmarks/gpu.py --dry           # tiny sizes on whatever there is; prints only

Checks are in gpu_checks.py, the tables in gpu_losses.py, gpu_steps.py and gpu_shards.py. What is compiled starts with empty
caches, so that a first step takes as long as on a fresh machine. Times are medians, memory is the peak. Without a
registry of packages, PYTHONPATH names a folder of unpacked wheels. A failed check stops it before anything is timed or written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gpu_losses
import gpu_shards
import gpu_steps
import torch
from gpu_checks import Found, checks_of_losses, checks_of_steps, checks_over_ranks
from gpu_losses import DEVICE
from report import put_section

TABLES = ("gpu_losses", "gpu_steps", "gpu_shards")
ROOT = Path(__file__).resolve().parent.parent


class Record:
    """What was measured, written to $OUT as it comes, so that a run which is cut off leaves it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            "card": card(),
            "torch": torch.__version__,
            "checks": [],
            "steps": [],
            "losses": [],
            "shards": [],
        }

    def note(self, kind: str, value: Any) -> None:
        self.values[kind].append(value)
        if os.environ.get("OUT"):
            (Path(os.environ["OUT"]) / "gpu.json").write_text(json.dumps(self.values, indent=1))


def card() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"


def holds(dry: bool, record: Record) -> bool:
    """Whether all checks hold, and on a card all tests that need one."""
    passed = checked(dry, record)
    return (DEVICE != "cuda" or tested()) and passed


def checked(dry: bool, record: Record) -> bool:
    """Runs all checks and prints them; whether all hold."""
    small = 96 if dry else 4480
    passed = True
    for run in (lambda: checks_of_losses(small), checks_of_steps, lambda: checks_over_ranks(90 if dry else 1500)):
        try:
            found: list[Found] = run()
        except Exception as error:  # the others are of use on their own
            found = [(f"{type(error).__name__}: {error}", math.inf, 0.0)]
        for what, figure, limit in found:
            passed = passed and figure <= limit
            record.note("checks", [what, figure, limit])
            print(f"{'ok' if figure <= limit else 'FAILED':6} {what}: {figure:.1e} (at most {limit:.0e})", flush=True)
    return passed


def tested() -> bool:
    """The tests that need a device."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(ROOT / "tests" / room) for room in ("losses", "encoders", "data/test_encoded.py", "data/test_resized.py")),
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def empty_caches(dry: bool) -> None:
    """Compiled code of earlier runs is not used. A dry run on a CPU only traces, as its compiler takes a minute."""
    folder = tempfile.mkdtemp()
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ[name] = str(Path(folder) / name)
    if dry and DEVICE == "cpu":
        torch.compile = partial(torch.compile, backend="eager")  # type: ignore[assignment]


def parts(dry: bool, until: float, record: Record) -> Iterator[tuple[str, str, Callable[[], list[str]]]]:
    """Key, heading and maker of each table; a maker asks what time it is when it is called."""
    sizes, steps = (((64, 32),), gpu_steps.TINY) if dry else (gpu_losses.SIZES, gpu_steps.SIZES)
    run = gpu_shards.DRY if dry else gpu_shards.FULL
    kept = 0 if dry else 90  # seconds that reading shards takes
    # A quarter of what is left is for the losses.
    middle = time.monotonic() + (until - time.monotonic()) / 4
    yield (
        "gpu_losses",
        f"Losses on one {card()}, forward and backward: ms (MiB over the inputs)",
        lambda: gpu_losses.table(sizes, middle, partial(record.note, "losses")),
    )
    yield (
        "gpu_steps",
        f"Training steps on one {card()}, bfloat16",
        lambda: gpu_steps.table(steps, until - kept, partial(record.note, "steps")),
    )
    yield (
        "gpu_shards",
        f"From tar shards, {os.cpu_count()} cores and one {card()}",
        lambda: gpu_shards.table(run, until, partial(record.note, "shards")),
    )


def published(key: str, section: str, dry: bool) -> None:
    """Puts a table where it is read."""
    if dry:
        print(section)
    else:
        put_section(key, section)
    if os.environ.get("OUT"):
        with (Path(os.environ["OUT"]) / "gpu.md").open("a") as page:
            page.write(section + "\n\n")


def main() -> int:
    """Runs, prints, writes; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="no size is begun after this time")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, nothing is written")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="which are made (default: all)")
    parser.add_argument("--unchecked", action="store_true", help="measure alone, after a run on this card that checked")
    parser.add_argument("--even-so", action="store_true", help="measure and write although a check failed")
    arguments = parser.parse_args()
    if DEVICE == "cpu" and not arguments.dry:
        print("gpu.py: there is no GPU here; --dry runs tiny sizes on the CPU")
        return 0
    empty_caches(arguments.dry)
    until, record = time.monotonic() + 60 * arguments.minutes, Record()
    failed = not arguments.unchecked and not holds(arguments.dry, record)
    print(f"{until - time.monotonic():.0f} s are left for the tables", flush=True)
    if failed and not arguments.even_so:
        print("a check failed: nothing is measured or written")
        return 1
    for key, head, make in parts(arguments.dry, until, record):
        if key not in arguments.tables:
            continue
        try:
            lines = make()
        except Exception:  # the other tables are of use without it
            traceback.print_exc()
            failed = True
            continue
        how = f"`python benchmarks/gpu.py`: {card()}; torch {torch.__version__}; medians."
        published(key, "\n".join([f"## {head}", "", how, "", *lines]), arguments.dry)
    with contextlib.suppress(Exception):
        torch.distributed.destroy_process_group()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
