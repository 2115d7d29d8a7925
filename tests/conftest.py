"""Fixtures: the folder of real pairs, and one thread per test so that parallel machines do not fight."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: forked ranks hang in a pool of OpenMP threads that their parent has started.
os.environ["OMP_NUM_THREADS"] = "1"

# What is imported stays until the end: while tests are collected the garbage collector would go through it for nothing.
gc.disable()

import pytest
import torch
import torch.distributed as dist
from sharing import pytest_addoption, pytest_collection_modifyitems

__all__ = ["pytest_addoption", "pytest_collection_modifyitems"]

torch.set_num_threads(1)
# The first backward pass starts a thread for each device, which a fork does not survive. It comes now, while there is none:
# plans compute with tensors that have no memory, for which torch pretends that there is a device.
torch.ones(1, requires_grad=True).sum().backward()
# Plug-ins that tests write to a folder of their own: imported here, their names would be taken.
collect_ignore = ["commands/everything.py"]
_OF_RANKS = ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE")
# What `seed_everything` leaves: a strategy that starts ranks would give them the seed of an earlier test, or of its fixture.
_OF_SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True)
def no_ranks_left() -> Iterator[None]:
    """A strategy that starts in the test's own process leaves a process group behind, which forked ranks would inherit."""
    for key in _OF_SEEDS:
        os.environ.pop(key, None)
    before = {key: os.environ.get(key) for key in (*_OF_RANKS, *_OF_SEEDS)}
    yield
    assert torch.is_grad_enabled(), "this test leaves gradients switched off for those after it"
    if dist.is_initialized():
        dist.destroy_process_group()
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pairs; the test is skipped where there is none."""
    folder = os.environ.get("LIGHTNING_CLIP_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LIGHTNING_CLIP_DATA does not name the folder of real pairs")
    return Path(folder)


@pytest.fixture
def own_names(tmp_path: Path) -> Iterator[None]:
    """What a test registers and imports of its own ends with it; names from the files of other tests are not there."""
    from commands.plugins import isolated

    with isolated(tmp_path):
        yield
