"""Weights that an objective adds: checkpoints keep all of them, exports only those that belong to the model beyond training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from objectives.published import METHODS, published
from small import IMAGE, TEXT, save_checkpoint

from lightning_clip import ClipModule
from lightning_clip.export.export import export

WORDS = {"name": "words", "vocabulary": ["cube", "ball", "red"]}
DECODER = {"width": 16, "layers": 1, "heads": 2}
PAIRS = {"name": "pairs"}
PUBLISHED = ("flair", "slip", "silc", "tips", "clip_refine", "fastclip")
VIT = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
# Objective -> parts that only training needs, and parts that our own format keeps.
CASES: dict[str, tuple[Any, set[str], set[str]]] = {
    "words": (WORDS, set(), {"words"}),
    "superclip": ([PAIRS, {**WORDS, "weight": 0.5}], {"words"}, set()),
    "captioning": ({"name": "captioning", "decoder": DECODER}, set(), {"captioning"}),
    "captioning_beside_pairs": ([PAIRS, {"name": "captioning", "decoder": DECODER}], set(), {"captioning"}),
    "masked_words_beside_pairs": ([PAIRS, {"name": "masked_words", "decoder": DECODER}], {"masked_words"}, set()),
    "coca": ({"name": "coca", "decoder": {"layers": 1, "heads": 2}}, set(), {"captioner"}),
    **{
        name: (METHODS[name]["objective"], set(), set())
        for name in ("flair", "slip", "silc", "tips", "clip_refine", "fastclip")
    },
}


def parts_in(state: dict[str, Any]) -> set[str]:
    """What stands beside towers, heads, temperature and normalisation."""
    own = {"image_encoder", "text_encoder", "image_projection", "text_projection", "logit_scale", "logit_bias", "mean", "std"}
    return {name.removeprefix("model.").partition(".")[0] for name in state} - own


def module_of(name: str) -> ClipModule:
    if name in METHODS:
        return published(name)
    torch.manual_seed(0)
    objective = CASES[name][0]
    alone = isinstance(objective, dict) and objective["name"] in ("words", "captioning")
    settings: dict[str, Any] = {"embed_dim": 16, "tokenizer": {"name": "clip", "context_length": 24}, "objective": objective}
    module = ClipModule({**IMAGE, "patch_size": 8}, None if alone else TEXT, **settings)
    module.configure_model()
    return module


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_keep_and_exports_leave_out(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    module = module_of(name)
    added = parts_in(module.model.state_dict())
    _, dropped, kept = CASES[name]
    dropped = dropped or added - kept
    assert added == dropped | kept
    stored = torch.load(save_checkpoint(tmp_path / "model.ckpt", module), weights_only=True)["state_dict"]
    assert all(torch.equal(stored[f"model.{key}"], value) for key, value in module.model.state_dict().items())
    found = load_file(export(module, "safetensors", tmp_path / "out").folder / "model.safetensors")
    assert parts_in(found) == kept
    assert parts_in(module.model.state_dict()) == added  # which an export leaves as it was


@pytest.mark.parametrize("name", ["superclip", "captioning_beside_pairs", "slip"])
def test_open_clip_gets_the_towers(name: str, tmp_path: Path) -> None:
    """Also of what learns from further views, which share the image's tower."""
    from safetensors.torch import load_file

    objective, dropped, kept = CASES[name]
    image = {"name": "open_clip", "embed_dim": 16, "config": {**VIT, "output_tokens": True}}
    views = {"towers": {"image": {"transform": {"views": 3}}}} if name in METHODS else {}
    torch.manual_seed(0)
    module = ClipModule(image, TEXT, objective=objective, embed_dim=16, **views)
    folder = export(module, "open_clip", tmp_path / "out").folder
    written = load_file(next(folder.glob("*.safetensors")))
    added = dropped | kept | parts_in(module.model.state_dict())
    assert added and not any(part in key for key in written for part in added)
