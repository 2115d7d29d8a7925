"""New tokens in a text tower that is still, on two gloo ranks: Hugging Face's towers, and checkpoints that ranks wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapt.test_locking import BERT, assert_near
from adapt.test_new_tokens import LAST, LOCK, LORA, ROWS, TEXTS, adapt, built, part, train
from corners import corners
from small import TEXT
from strategies.ranks import alone, fit
from torch import Tensor

from lightning_clip import ClipModule
from lightning_clip.merging import merged
from lightning_clip.strategies.consolidate import consolidate

# Ranks draw dropout of their own, and one process draws another.
STEADY_BERT = {"name": "hf", "config": {**BERT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
FROM_BASE = dict.fromkeys(("image_encoder", "text_encoder", "embed_dim", "tokenizer"))


def without_key_biases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention does not depend on them: their gradient is zero but for rounding, and so are they."""
    return {name: value for name, value in weights.items() if not name.endswith("key.bias")}


@pytest.mark.parametrize("still", corners([LOCK, LAST, LORA], LORA), ids=["lock", "unlock_last", "lora"])
@pytest.mark.parametrize("strategy", corners(["ddp", "clip_fsdp2"]))  # quicker: test_new_tokens.py
def test_bert_as_one_process(tmp_path: Path, still: dict[str, Any], strategy: str) -> None:
    settings: dict[str, Any] = {"adapt": adapt(still), "text_encoder": STEADY_BERT, "micro_batch_size": 4}
    _, before = built(**settings)
    found = fit(tmp_path, strategy=strategy, **settings)["weights"]
    assert torch.equal(part(found, "old_tokens.weight"), part(before, "old_tokens.weight"))
    assert not torch.equal(part(found, ROWS), part(before, ROWS))
    assert_near(without_key_biases(found), without_key_biases(alone(tmp_path, **settings)))


@pytest.mark.parametrize("strategy", ["ddp", "clip_fsdp2"])
@pytest.mark.slow
def test_bert_in_stages(tmp_path: Path, strategy: str) -> None:
    """Four steps, the first two of which leave the old words as they are."""
    settings: dict[str, Any] = {"adapt": adapt({}, stages=[{"until_step": 2, "text": LOCK}]), "text_encoder": STEADY_BERT}
    for steps in (2, 4):
        _, before = built(**settings)
        found = fit(tmp_path, strategy=strategy, max_steps=steps, **settings)["weights"]
        assert torch.equal(part(found, "old_tokens.weight"), part(before, "old_tokens.weight")) == (steps == 2)
        assert_near(without_key_biases(found), without_key_biases(alone(tmp_path, max_steps=steps, **settings)))


@pytest.mark.parametrize("tower", corners([TEXT, STEADY_BERT], TEXT), ids=["clip_text", "bert"])
@pytest.mark.parametrize(
    ("strategy", "store"),
    corners(
        [
            ("ddp", "trained"),
            ("clip_fsdp2", "trained"),
            ({"cpu_offload": True, "meta_init": False}, "trained"),
            ({"sharded_checkpoint": True}, "full"),
        ],
        ("clip_fsdp2", "trained"),
    ),
    ids=["ddp", "clip_fsdp2", "offloaded", "in_parts"],
)
def test_checkpoint_of_ranks(tmp_path: Path, strategy: Any, store: str, tower: dict[str, Any]) -> None:
    """Loads with no arguments, on the very table that the run began with, and merges."""
    base, _ = built(text_encoder=tower)
    train(base, tmp_path, 1, tmp_path / "base.ckpt")
    settings: dict[str, Any] = {
        **FROM_BASE,
        "pretrained": str(tmp_path / "base.ckpt"),
        "adapt": {**adapt(LORA), "store": store},
    }
    path = tmp_path / "words.ckpt"
    found = fit(tmp_path, strategy=strategy, save=path, **settings)["weights"]
    if path.is_dir():
        torch.save(consolidate(path), path := tmp_path / "one.ckpt")
    noted = torch.load(path, weights_only=True)["state_dict"]
    assert any("old_tokens" in name for name in noted) == (store == "full")
    loaded = ClipModule.load_from_checkpoint(path, weights_only=True)
    assert_near(dict(loaded.state_dict()), found)
    table: Any = base.model.text_encoder.token_table()
    assert torch.equal(part(loaded.state_dict(), "old_tokens.weight"), table.weight)
    torch.testing.assert_close(merged(loaded).encode_text(TEXTS), loaded.encode_text(TEXTS), rtol=0, atol=1e-6)
