"""OWL-ViT and OWLv2 of transformers as sources of weights: CLIP's two towers, and a detection head on the image's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.weights.rules import Rule, renamed, to_ours
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.towers import assemble
from lightning_clip.weights.transformers_inputs import read_tokenizer, read_transform
from lightning_clip.weights.transformers_towers import read_image, read_text

__all__ = ["DETECTORS", "head_rules", "read_detector"]

# Their `model_type`, and where the towers stand in the model.
DETECTORS = {"owlvit": "owlvit", "owlv2": "owlv2"}
_HEAD = {
    "norm": "layer_norm",
    "embedding": "class_head.dense0",
    "shift": "class_head.logit_shift",
    "scale": "class_head.logit_scale",
}
_BOX = {"box.0": "box_head.dense0", "box.2": "box_head.dense1", "box.4": "box_head.dense2"}


def head_rules() -> list[Rule]:
    """The detection head beside transformers'; OWLv2's objectness, which no name is asked of, has no place in ours."""
    return renamed("detector.", "", {**_HEAD, **_BOX})


def read_detector(name: str, model: Any, source: Source, label: str) -> tuple[Pretrained, InputError | None]:
    """A live model in our words, and why its tokenizer cannot be read, if so.

    Args:
        name: on the hub, or a folder.
        model: `OwlViTForObjectDetection` or `Owlv2ForObjectDetection`, with weights.
        source: says at which sizes it is opened.
        label: of the source, for messages.

    Raises:
        InputError: towers or a head of another form than the published ones.
    """
    family = model.config.model_type
    towers = _as_clip(getattr(model, DETECTORS[family]))
    tokenizer, problem = read_tokenizer(name, towers, label)
    image = read_image(towers, "clip", source.image_size, label)
    text, length = read_text(towers, "clip", tokenizer, source.context_length, label)
    if image.spec["name"] == "hf":
        raise InputError(
            f"the image tower of {label} is not CLIP's Vision Transformer: its tokens would not be those of {family}"
        )
    if tokenizer is not None:
        tokenizer["context_length"] = length
    width, queries = len(towers.text_projection.weight), len(model.class_head.dense0.weight)
    if width != queries:
        raise InputError(f"{label} compares embeddings of width {queries} with texts of width {width}: they must be equal")
    transform = read_transform(name, label)
    if family == "owlv2":
        transform |= {"resize": "pad_end", "fill": 0}  # black, as transformers pads
    scale = {"logit_scale": towers.logit_scale}
    found = assemble(label, (image, text), scale, embed_dim=width, tokenizer=tokenizer, transform=transform)
    found.recipe = replace(found.recipe, objective={"name": "detection"})
    found.parts = {key: value.float() for key, value in to_ours(head_rules(), model.state_dict(), label).items()}
    return found, problem


def _as_clip(towers: Any) -> Any:
    """The two towers as transformers' CLIP, which they are but for one misspelt name; the weights are shared."""
    from transformers import CLIPConfig, CLIPModel

    config = towers.config
    settings = {"text_config": config.text_config.to_dict(), "vision_config": config.vision_config.to_dict()}
    for part in settings.values():
        part.pop("model_type", None)
    with torch.device("meta"):
        clip: Any = CLIPModel(CLIPConfig(**settings, projection_dim=config.projection_dim))
    weights: dict[str, Tensor] = {
        key.replace(".pre_layernorm.", ".pre_layrnorm."): value for key, value in towers.state_dict().items()
    }
    clip.load_state_dict(weights, strict=True, assign=True)
    return clip.eval()
