"""sentence-transformers reads what is exported for transformers: the same features of pictures and texts, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corners import corners
from export.test_export import clip_module
from PIL import Image
from small import small_module
from torch import Tensor
from weights.families import CAPTIONS
from weights.test_from_transformers import config, transformers_folder

from lightning_clip import ClipModule
from lightning_clip.export.export import export
from lightning_clip.model.predictor import Predictor

library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
TEXTS = [*CAPTIONS, "a very long caption, " * 50]


def read(folder: Path) -> Any:
    return library.SentenceTransformer(str(folder), device="cpu")


def unit(model: Any, inputs: list[Any]) -> Tensor:
    found: Tensor = model.encode(inputs, convert_to_tensor=True, normalize_embeddings=True)
    return found


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def check(model: Any, predictor: Predictor) -> None:
    torch.testing.assert_close(unit(model, TEXTS), predictor.encode_text(TEXTS), rtol=0, atol=1e-6)
    # Even differences of sides: a centre crop's corner is the same in all libraries.
    images = [noise(40, 50), noise(64, 32)]
    torch.testing.assert_close(unit(model, images), predictor.encode_image(images), rtol=0, atol=1e-6)


def test_a_trained_model(tmp_path: Path) -> None:
    module = clip_module()
    export(module, "huggingface", tmp_path / "out")
    model = read(tmp_path / "out")
    check(model, module.predictor)
    assert {"image", "text"} <= set(model.modalities)
    similarity = model.similarity(model.encode(CAPTIONS[:2]), model.encode([noise(32, 32)]))
    assert similarity.shape == (2, 1) and similarity.abs().max() <= 1  # a cosine, of features that it leaves as they are
    assert 'SentenceTransformer("out")' in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "kind", corners(["clip", "clip_legacy", "metaclip_2", "siglip", "chinese_clip", "altclip", "dual"], "siglip")
)
def test_every_family(kind: str, tmp_path: Path) -> None:
    transformers_folder(tmp_path / "in", *config(kind))
    module = ClipModule.from_pretrained(tmp_path / "in")
    export(module, "huggingface", tmp_path / "out")
    check(read(tmp_path / "out"), module.predictor)


def test_it_sees_what_differs(tmp_path: Path) -> None:
    """What `check` compares is not the same for any two models."""
    export(clip_module(), "huggingface", tmp_path / "out")
    other = small_module(image_encoder={"name": "vit_tiny_patch16_224", "image_size": 32, "depth": 1}, embed_dim=16)
    other.configure_model()
    with pytest.raises(AssertionError):
        check(read(tmp_path / "out"), other.predictor)
