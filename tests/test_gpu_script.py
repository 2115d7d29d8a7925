"""The GPU script in a dry run: every check and every table once, in tiny sizes, on whatever there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_dry_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_bytes()
    settings = {**os.environ, "OUT": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), settings.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry", "--minutes", "15"]
    done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    names = " ".join(what for what, *_ in found["checks"])
    for part in ("on a ring of one rank", "over two ranks", "FSDP2", "DDP", "captions packed", "compiled block by block"):
        assert part in names
    assert len(found["losses"]) == 2 and all(measured["ring"] for measured in found["losses"])
    assert {step["variant"] for step in found["steps"]} == {"here", "open_clip"}
    assert len(found["shards"]) == 2 and all(measured["rate"] > 0 for measured in found["shards"])
    assert (ROOT / "docs" / "benchmarks.md").read_bytes() == page  # a dry run writes nothing
