"""Mutated files by seed, watched: each is read, or refused in one line; nothing runs, nothing is written outside.

`LIGHTNING_CLIP_HOSTILE_CASES` sets how many of each kind, `LIGHTNING_CLIP_HOSTILE_FIRST` the first seed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hostile.kinds import KINDS, placed
from hostile.watching import install, watched

from lightning_clip import InputError

CASES = int(os.environ.get("LIGHTNING_CLIP_HOSTILE_CASES", "40"))
FIRST = int(os.environ.get("LIGHTNING_CLIP_HOSTILE_FIRST", "0"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", KINDS)
def test_mutated(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS[name]
    install()
    monkeypatch.chdir(tmp_path)  # names that are relative stay inside
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    whole = tmp_path / "whole"
    whole.mkdir()
    kind.make(whole)
    right = kind.read(whole)  # and imports what reading needs
    assert not isinstance(right, tuple) or right[0] == 0, right[1]
    failures = []
    cases = max(1, round(CASES * kind.share))
    for seed in range(FIRST, FIRST + cases):
        folder = tmp_path / str(seed)
        path = placed(kind, whole, folder)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(kind.mutate(content, random.Random(f"{name} {seed}")))
        try:
            with watched(tmp_path):
                kind.read(folder)
        except InputError:  # which a command prints in one line, shortened
            continue
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[-600:]}")
    assert not failures, f"{len(failures)} of {cases}\n" + "\n\n".join(failures)
