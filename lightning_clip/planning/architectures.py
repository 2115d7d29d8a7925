"""Parameters and FLOPs of open_clip's architectures and transformers' families, measured on tensors without memory."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lightning_clip.planning.flops import FlopCounter
from lightning_clip.weights.catalogue import Architecture

__all__ = ["HUGGING_FACE_TEXTS", "measure_architecture", "measure_family"]

_ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
_XLM = {"model_type": "xlm-roberta", "vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_MT5 = {"model_type": "mt5", "vocab_size": 250112, "d_kv": 64, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_NLLB = {"model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "max_position_embeddings": 1024}
_NLLB |= {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
# The settings on the hub of the texts that open_clip takes from transformers: with them nothing is downloaded.
HUGGING_FACE_TEXTS: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA,
    "xlm-roberta-base": _XLM,
    "xlm-roberta-large": {**_XLM, **_LARGE},
    "google/mt5-base": {**_MT5, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": {**_MT5, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": {
        **_NLLB,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 12),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4096),
    },
    "facebook/nllb-200-distilled-1.3B": {
        **_NLLB,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 24),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 8192),
    },
}


# What differs in published models from the defaults of transformers' configurations.
_PUBLISHED: dict[str, dict[str, Any]] = {"chinese_clip": {"text_config": {"vocab_size": 21128}}}
_CONTEXT = {**dict.fromkeys(("siglip", "siglip2", "align", "tipsv2"), 64), "owlvit": 16, "owlv2": 16}
_CONTEXT |= {"altclip": 77, "chinese_clip": 52}


def measure_architecture(name: str) -> Architecture:
    """Builds an architecture of open_clip's without memory or network and counts.

    Args:
        name: as `open_clip.list_models` has it.

    Examples:
        >>> found = measure_architecture("ViT-B-32")
        >>> found.parameters, round(found.image_flops / 1e9, 1), round(found.text_flops / 1e9, 1)
        (151277313, 8.8, 6.0)
    """
    import open_clip  # here: slow

    config: dict[str, Any] = deepcopy(open_clip.get_model_config(name))
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with tempfile.TemporaryDirectory() as folder:
        with torch.device("meta"):
            model = _faked(_built(config, Path(folder)).eval(), mode)
        size, length = _side(model.visual.image_size), int(config["text_cfg"].get("context_length", 77))
        with mode, torch.no_grad():
            images = _forward_flops(lambda: model.encode_image(torch.empty(1, 3, size, size)))
            ids = torch.ones(1, length, dtype=torch.long)
            read = model.text if "multimodal_cfg" in config else model.encode_text
            texts = _forward_flops(lambda: read(ids))
    parameters = _count(model)
    return Architecture(name, size, length, int(config["embed_dim"]), parameters, _count(model.visual), images, texts)


def _built(config: dict[str, Any], folder: Path) -> Any:
    """The model with settings of its text tower from our table in place of the hub's."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    texts = config["text_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in texts
    if hub := texts.get("hf_model_name"):
        (folder / "config.json").write_text(json.dumps(HUGGING_FACE_TEXTS[hub]))
        texts |= {"hf_model_name": str(folder), "hf_model_pretrained": False, "output_tokens": False}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    cls = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    return cls(**config)


def _faked(model: Any, mode: FakeTensorMode) -> Any:
    """A model from the meta device on fake CPU tensors, which transformers asks for no values of."""
    with mode:
        for part in model.modules():
            for table in (part._parameters, part._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                        table[name] = nn.Parameter(fake, requires_grad=False) if table is part._parameters else fake
    return model


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else int(size[0])


def _forward_flops(forward: Any) -> int:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole attention, whose products nobody would see
    try:
        with FlopCounter() as counter:
            forward()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.flops.forward)


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def measure_family(family: str) -> Architecture:
    """A two-tower family of transformers at the size of its default configuration, without memory or network.

    Args:
        family: transformers' `model_type`, such as "chinese_clip".
    """
    from transformers import AutoConfig, AutoModel  # here: slow

    config: Any = AutoConfig.for_model(family, **_PUBLISHED.get(family, {}))
    vision = config.vision_config
    length = _CONTEXT.get(family) or int(getattr(config.text_config, "max_position_embeddings", 77))
    flexible = family == "siglip2"  # whose shapes of pictures are read on the host: its numbers are real ones
    mode = nullcontext() if flexible else FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with torch.device("cpu" if flexible else "meta"):
        made: Any = AutoModel
        model = made.from_config(config).eval()
    if isinstance(mode, FakeTensorMode):
        _faked(model, mode)
    with mode, torch.no_grad():
        size, images = _example(family, vision)
        ids = torch.ones(1, length, dtype=torch.long)
        image_flops = _forward_flops(lambda: model.get_image_features(**images))
        text_flops = _forward_flops(lambda: model.get_text_features(ids, attention_mask=torch.ones_like(ids)))
    head = getattr(model, "visual_projection", None)
    parts = [model.vision_model, *([] if head is None else [head])]
    width = int(getattr(config, "projection_dim", 0) or getattr(config.text_config, "projection_size", vision.hidden_size))
    return Architecture(family, size, length, width, _count(model), sum(map(_count, parts)), image_flops, text_flops)


def _example(family: str, vision: Any) -> tuple[int, dict[str, torch.Tensor]]:
    """The side of an image and the arguments for one; of SigLIP 2 with variable sizes a square one."""
    if family != "siglip2":
        size = int(vision.image_size)
        return size, {"pixel_values": torch.empty(1, 3, size, size)}
    patches, patch = int(vision.num_patches), int(vision.patch_size)
    side = int(patches**0.5)
    values = torch.empty(1, patches, vision.num_channels * patch * patch)
    shapes = torch.tensor([[side, side]])
    mask = torch.ones(1, patches, dtype=torch.long)
    return side * patch, {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": shapes}
