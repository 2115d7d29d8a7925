"""Objectives that predict from images: the same gradients in slices and on ranks, and the same weights after a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from small import IMAGE, TEXT, small_data, small_trainer
from torch import Tensor
from variants.senses import SETTINGS, Senses, batch_of, error_of, gradients, share

from lightning_clip import ClipModule
from lightning_clip.data import train_tokenizer

WORDS = {"name": "words", "vocabulary": {"red": 0.5, "blue": 1.5, "small": 0.25, "night": 2.0}}
DECODER = {"width": 16, "layers": 1, "heads": 2}
# What each is built with where there is no data.
SPECS: dict[str, Any] = {
    "words": WORDS,
    "words, binary": {**WORDS, "prediction": "binary"},
    "hashtags": {"name": "hashtags", "vocabulary": ["red", "blue", "left", "night"], "separator": " "},
    "captioning": {"name": "captioning", "decoder": DECODER, "backward": True},
    "masked words": {"name": "masked_words", "decoder": DECODER, "share": 0.4},
    "words beside pairs": [{"name": "pairs"}, {**WORDS, "weight": 0.5}],
}


def module_of(name: str, spec: Any = None) -> ClipModule:
    torch.manual_seed(0)
    text = TEXT if "pairs" in name else None
    return ClipModule(IMAGE, text, objective=spec or SPECS[name], **SETTINGS)


def _on_rank(rank: int, world_size: int, name: str) -> dict[str, Tensor]:
    module = module_of(name)
    return gradients(module, share(batch_of(module, Senses()), rank, 8), 4)


@pytest.mark.parametrize("name", corners(list(SPECS), "captioning", "words beside pairs"))
def test_gradients_do_not_depend_on_how_it_is_run(name: str) -> None:
    """In slices of 4 and of 5, and on two ranks with 8 and 4 rows."""
    module = module_of(name)
    batch = batch_of(module, Senses())
    expected = gradients(module, batch)
    assert any(key.startswith("model.image_encoder") for key in expected)
    for size in (4, 5):
        assert error_of(gradients(module, batch, size), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2, name):
        assert error_of(found, expected) <= 1e-6


def fitted(folder: Path, spec: Any, steps: int, **options: Any) -> dict[str, Tensor]:
    """Weights after a fit on scenes."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a small red circle on the left", "two large blue squares at the top"], 300)
    module = ClipModule(IMAGE, objective=spec, **{**SETTINGS, "tokenizer": tokenizer})
    trainer = small_trainer(folder, max_steps=steps)
    trainer.fit(module, small_data(size=32, batch=8, val=None), **options)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return module.state_dict()


@pytest.mark.parametrize("name", ["words", "masked_words"])
def test_a_resumed_run_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    """Its vocabulary is taken from the data again, and from the checkpoint where it is loaded alone."""
    whole = fitted(tmp_path, {"name": name}, 4)
    (tmp_path / "half").mkdir()
    fitted(tmp_path / "half", {"name": name}, 2)
    again = fitted(tmp_path / "half", {"name": name}, 4, ckpt_path=tmp_path / "half/2.ckpt")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    loaded = ClipModule.load_from_checkpoint(tmp_path / "half/4.ckpt").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in whole.items())
