"""Fixtures: the folder of real pairs, and one thread per test so that parallel machines do not fight."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pairs; the test is skipped where there is none."""
    folder = os.environ.get("LIGHTNING_CLIP_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIGHTNING_CLIP_DATA does not name the folder of real pairs")
    return Path(folder)
