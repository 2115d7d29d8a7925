"""Files of weights with what trainers put beside and around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_clip import InputError
from lightning_clip.weights.files import read_weights
from lightning_clip.weights.openai import plain_names
from lightning_clip.weights.source import Source


def test_averaged_weights_are_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained, average = {"weight": torch.zeros(2)}, {"module._orig_mod.weight": torch.ones(2)}
    torch.save({"state_dict": trained, "state_dict_ema": average}, tmp_path / "both.pt")
    assert torch.equal(read_weights(tmp_path / "both.pt", False)["weight"], torch.zeros(2))
    assert "also holds a running average of the weights (state_dict_ema)" in caplog.text
    found = plain_names(read_weights(tmp_path / "both.pt", False, averaged=True))
    assert torch.equal(found["weight"], torch.ones(2))
    assert Source.of({"source": "x.pt", "averaged": True}).averaged
    torch.save({"state_dict": trained}, tmp_path / "one.pt")
    with pytest.raises(InputError, match="holds no averaged weights .state_dict_ema, .*: omit averaged"):
        read_weights(tmp_path / "one.pt", False, averaged=True)
