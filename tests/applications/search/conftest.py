"""A checkpoint that all tests of search use."""

from __future__ import annotations

import pytest
from small import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp("model") / "small.ckpt"))
