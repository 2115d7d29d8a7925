"""OWL-ViT and OWLv2: boxes and logits of transformers' own models, from folders that these write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corners import corners
from PIL import Image
from small import save_checkpoint
from torch import Tensor
from weights.families import clip_tokenizer, shaken

from lightning_clip import ClipModule, InputError
from lightning_clip.applications.detection import Detector
from lightning_clip.loading import open_predictor

NAMES = ["a dog", "two red cats on the beach", "a bus"]
SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 64, "heads": 4, "layers": 2, "patch": 8, "side": 48},
    "large": {"width": 96, "heads": 6, "layers": 3, "patch": 16, "side": 96},
}


def written(folder: Path, family: str, size: str = "small", **changes: Any) -> Any:
    """A model of real architecture with random weights, its tokenizer and image processor as a folder."""
    from transformers import (
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
    )

    sizes = SIZES[size]
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {
        "hidden_size": sizes["width"],
        "intermediate_size": 3 * sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "image_size": sizes["side"],
        "patch_size": sizes["patch"],
        **changes,
    }
    old = family == "owlvit"
    config = (OwlViTConfig if old else Owlv2Config)(text_config=text, vision_config=vision, projection_dim=32)
    torch.manual_seed(0)
    model: Any = shaken((OwlViTForObjectDetection if old else Owlv2ForObjectDetection)(config))
    for part in (model.box_head.dense2, model.class_head.logit_shift, model.class_head.logit_scale):
        part.weight.data *= 0.02  # else all boxes and scores are at an end of their range
    model.save_pretrained(folder)
    tokenizer = clip_tokenizer(folder)
    tokenizer.model_max_length = 16
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder)
    side = {"height": sizes["side"], "width": sizes["side"]}
    (OwlViTImageProcessor if old else Owlv2ImageProcessor)(size=side).save_pretrained(folder)
    return model


def expected(model: Any, folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (Q, 4) and logits (Q, C) of transformers for normalised pixels (1, 3, S, S)."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(NAMES, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        found = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    return found.pred_boxes[0], found.logits[0]


@pytest.mark.parametrize(("family", "size"), corners([("owlvit", "small"), ("owlv2", "large")], ("owlvit", "small")))
def test_boxes_and_logits_are_those_of_transformers(family: str, size: str, tmp_path: Path) -> None:
    model = written(tmp_path, family, size)
    predictor = open_predictor(f"hf:{tmp_path}")
    space: Any = predictor.model
    side = SIZES[size]["side"]
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    normalised = (pixels / 255 - space.mean) / space.std
    boxes, logits = expected(model, tmp_path, normalised)
    with torch.no_grad():
        found = space.detector(space.encode_with_tokens("image", pixels)[1])
        own = found.logits(predictor.encode_text(NAMES))
    torch.testing.assert_close(found.boxes[0], boxes, rtol=0, atol=1e-5)
    torch.testing.assert_close(own[0], logits, rtol=1e-5, atol=1e-5)
    assert float(logits.std()) > 0.05 and float(boxes.std(dim=0).min()) > 0.02


@pytest.mark.parametrize("family", corners(["owlvit", "owlv2"], "owlv2"))
def test_a_picture_and_its_boxes_in_pixels(family: str, tmp_path: Path) -> None:
    """Through both image processors and back: resized for OWL-ViT, with borders on the right and below for OWLv2."""
    from transformers import AutoImageProcessor

    model = written(tmp_path, family)
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (5, 8, 3), dtype=np.uint8)).resize((96, 60), Image.Resampling.BICUBIC)
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)
    predictor = open_predictor(f"hf:{tmp_path}")
    space: Any = predictor.model
    own = (predictor.transform(pixels)[None] / 255 - space.mean) / space.std
    prepared = processor(images=smooth, return_tensors="pt")["pixel_values"]
    # OWLv2's resize blurs as scipy does; only the edge of the picture beside the border shows it.
    assert float((prepared - own).abs().mean()) <= (0.02 if family == "owlv2" else 1e-5)
    boxes, logits = expected(model, tmp_path, own)
    result = type("Output", (), {"logits": logits[None], "pred_boxes": boxes[None]})
    (theirs,) = processor.post_process_object_detection(result, threshold=0.0, target_sizes=[(60, 96)])
    found, scores = Detector(predictor, NAMES, templates=["{}"]).places(pixels)
    inside = theirs["boxes"].clamp(min=0).minimum(torch.tensor([96.0, 60.0, 96.0, 60.0]))
    torch.testing.assert_close(found, inside, rtol=0, atol=1e-3)
    torch.testing.assert_close(scores.sigmoid().amax(dim=1), theirs["scores"], rtol=0, atol=1e-5)


def test_a_fit_goes_on_with_the_head(tmp_path: Path) -> None:
    model = written(tmp_path, "owlvit")
    module = ClipModule.from_pretrained(f"hf:{tmp_path}", objective={"name": "detection", "class_names": ["a", "b"]})
    head: Any = module.model.detector
    assert torch.equal(head.box[4].weight, model.box_head.dense2.weight)
    assert module.tokenizer.context_length == 16 and module.transform_settings.resize == "squash"
    path = tmp_path / "own.ckpt"
    save_checkpoint(path, module)
    again: Any = ClipModule.load_from_checkpoint(path).model
    assert torch.equal(again.detector.box[4].weight, head.box[4].weight)


def test_what_does_not_fit(tmp_path: Path) -> None:
    written(tmp_path / "relu", "owlvit", hidden_act="relu")
    with pytest.raises(InputError, match=r"is not CLIP's Vision Transformer: its tokens would not be those of owlvit"):
        open_predictor(f"hf:{tmp_path / 'relu'}")
    written(tmp_path / "other", "owlvit")
    path = tmp_path / "other/config.json"
    config = json.loads(path.read_text())
    config["projection_dim"] = 16
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"says .* but its weights have another size"):
        open_predictor(f"hf:{tmp_path / 'other'}")
