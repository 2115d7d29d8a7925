"""Chinese-CLIP's own checkpoints as sources of weights (Yang et al. 2022): .pt files of OFA-Sys/Chinese-CLIP.

The image tower is CLIP's, the text tower a BERT read at its first token. All sizes are read off the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.weights import clip
from lightning_clip.weights.open_clip_images import read_vit
from lightning_clip.weights.openai import count_blocks, resnet_depths
from lightning_clip.weights.rules import to_ours
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.towers import TowerWeights, assemble, under

__all__ = ["is_chinese_clip", "open_chinese_clip"]

_CONTEXT = 52  # tokens, in their code
_HEAD = 64  # width of an attention head
_OTHER_HEADS = {1280: 80}  # by width of the image tower: that of ViT-H-14, which no weight shows
_LINEAR = {"name": "linear"}


def is_chinese_clip(weights: Mapping[str, Tensor]) -> bool:
    """Whether Chinese-CLIP's code wrote these weights."""
    return "bert.embeddings.word_embeddings.weight" in weights and "visual.conv1.weight" in weights


def open_chinese_clip(weights: dict[str, Tensor], source: Source, label: str) -> Pretrained:
    """The model behind Chinese-CLIP's weights; it has no tokenizer with it, which the user gives.

    Raises:
        InputError: weights of another shape than their models have.
    """
    image = _resnet(weights, source, label) if "visual.layer1.0.conv1.weight" in weights else _vit(weights, source, label)
    text = _bert(weights)
    length = source.context_length or _CONTEXT
    room = len(weights["bert.embeddings.position_embeddings.weight"])
    if length > room:
        raise InputError(f"context_length {length} exceeds what {label} takes, {room}: its positions cannot be extended")
    transform = {"resize": "squash", "mean": list(CLIP_MEAN), "std": list(CLIP_STD)}
    width = weights["text_projection"].shape[1]
    scale = {"logit_scale": weights["logit_scale"]}
    found = assemble(label, (image, text), scale, embed_dim=width, tokenizer=None, transform=transform)
    found.problem = InputError(
        f"{label} comes without its tokenizer: pass BERT's Chinese one, tokenizer={{'name': 'hf:bert-base-chinese', "
        f"'context_length': {length}}}, or a folder that holds it"
    )
    return found


def _vit(weights: dict[str, Tensor], source: Source, label: str) -> TowerWeights:
    width, _, _, patch = weights["visual.conv1.weight"].shape
    sizes = {
        "image_size": source.image_size or patch * math.isqrt(len(weights["visual.positional_embedding"]) - 1),
        "patch_size": patch,
        "width": width,
        "depth": count_blocks(weights, "visual."),
        "heads": max(1, width // _OTHER_HEADS.get(width, _HEAD)),
        "hidden": len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
    }
    return read_vit(weights, sizes, quick_gelu=True, label=label)


def _resnet(weights: dict[str, Tensor], source: Source, label: str) -> TowerWeights:
    depths, width = resnet_depths(weights), len(weights["visual.layer1.0.conv1.weight"])
    name = clip.RESNETS.get((depths, width))
    if name is None:
        raise InputError(f"{label} has a ResNet of {depths} blocks and width {width}, which is none of CLIP's")
    own = clip.RESNET_STRIDE * math.isqrt(len(weights["visual.attnpool.positional_embedding"]) - 1)
    found = to_ours(clip.open_clip_resnet(depths), weights, label)
    return TowerWeights({"name": name, "image_size": source.image_size or own}, {**_LINEAR, "bias": True}, found)


def _bert(weights: dict[str, Tensor]) -> TowerWeights:
    vocabulary, width = weights["bert.embeddings.word_embeddings.weight"].shape
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": sum(key.endswith("attention.self.query.weight") for key in weights),
        "num_attention_heads": max(1, width // _HEAD),
        "intermediate_size": len(weights["bert.encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(weights["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights["bert.embeddings.token_type_embeddings.weight"]),
    }
    spec = {"name": "hf", "pooling": "cls", "config": {"model_type": "chinese_clip", "text_config": config}}
    found = under("bert.", weights, "text_encoder.model.")
    found = {key: value for key, value in found.items() if "pooler" not in key and not key.endswith("position_ids")}
    return TowerWeights(spec, _LINEAR, {**found, "text_projection.weight": weights["text_projection"].T.contiguous()})
