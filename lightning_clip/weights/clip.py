"""CLIP's towers, in and out: our names of weights and settings beside OpenAI's and open_clip's, and beside transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.weights.rules import Rule, SettingsTable, renamed
from lightning_clip.weights.towers import mlp_ratio

__all__ = [
    "IMAGE_POSITIONS",
    "OPEN_CLIP_TEXT",
    "RESNETS",
    "RESNET_STRIDE",
    "TEXT_POSITIONS",
    "TRANSFORMERS_TEXT",
    "TRANSFORMERS_VIT",
    "head",
    "open_clip_resnet",
    "open_clip_text",
    "open_clip_vit",
    "open_clip_vit_settings",
    "open_clip_vit_sizes",
    "temperature",
    "timm_vit",
    "transformers_text",
    "transformers_vit",
]

_IMAGE, _TEXT = "image_encoder.model.", "text_encoder."
# Our names of the position tables, which another size of images or texts changes.
IMAGE_POSITIONS, TEXT_POSITIONS = f"{_IMAGE}pos_embed", f"{_TEXT}positional_embedding"

# Blocks per stage and width of a ResNet -> timm's name.
RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 64): "resnet50_clip",
    ((3, 4, 23, 3), 64): "resnet101_clip",
    ((4, 6, 10, 6), 80): "resnet50x4_clip",
    ((6, 8, 18, 8), 96): "resnet50x16_clip",
    ((3, 15, 36, 10), 128): "resnet50x64_clip",
}
RESNET_STRIDE = 32

_GELU = {"quick_gelu": {True: "quick_gelu", False: "gelu"}}
_HIDDEN = {"depth": "num_hidden_layers", "heads": "num_attention_heads", "hidden": "intermediate_size"}
# The arguments of `timm_vit` beside transformers' vision_config, those of `ClipTextTransformer` beside its text_config.
TRANSFORMERS_VIT = SettingsTable(
    {"width": "hidden_size", **_HIDDEN, "image_size": "image_size", "patch_size": "patch_size", "quick_gelu": "hidden_act"},
    _GELU,
    {"layer_norm_eps": 1e-5, "num_channels": 3},
)
TRANSFORMERS_TEXT = SettingsTable(
    {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "quick_gelu": "hidden_act",
    },
    _GELU,
    {"layer_norm_eps": 1e-5},
)
# open_clip's words for texts are ours.
OPEN_CLIP_TEXT = SettingsTable({key: key for key in ("context_length", "vocab_size", "width", "heads", "layers")})
_OPEN_CLIP_VIT = SettingsTable(
    {"image_size": "image_size", "patch_size": "patch_size", "width": "width", "depth": "layers"},
)


def timm_vit(
    *, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int, quick_gelu: bool
) -> dict[str, Any]:
    """CLIP's Vision Transformer of any size as timm's.

    Args:
        image_size: side in pixels.
        patch_size: side of a patch.
        width: of the tokens.
        depth: number of blocks.
        heads: of each block's attention.
        hidden: width of a block's hidden layer.
        quick_gelu: OpenAI's activation instead of GELU.
    """
    name = "vit_base_patch16_clip_quickgelu_224" if quick_gelu else "vit_base_patch16_clip_224"
    sizes = {
        "patch_size": patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp_ratio(hidden, width),
    }
    return {"name": name, "image_size": image_size, **sizes}


def open_clip_vit_settings(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's `vision_cfg` from the arguments of `timm_vit`.

    It tells heads by their width, and the hidden layer by its ratio to the width.

    Examples:
        >>> sizes = {"image_size": 224, "patch_size": 14, "width": 1664, "depth": 48, "heads": 16, "hidden": 8192}
        >>> open_clip_vit_sizes(open_clip_vit_settings(sizes)) == sizes
        True
    """
    width = sizes["width"]
    ratio = mlp_ratio(sizes["hidden"], width)
    return {**_OPEN_CLIP_VIT.to_theirs(sizes), "head_width": width // sizes["heads"], "mlp_ratio": ratio}


def open_clip_vit_sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `open_clip_vit_settings`, from settings that say everything."""
    width = settings["width"]
    others = {"heads": width // settings["head_width"], "hidden": int(width * settings["mlp_ratio"])}
    return {**_OPEN_CLIP_VIT.to_ours(settings), **others}


_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def open_clip_vit(depth: int) -> list[Rule]:
    """Timm's Vision Transformer beside open_clip's `visual.`, without projection."""
    rules = [
        Rule(f"{_IMAGE}cls_token", ("visual.class_embedding",), lead=2),
        Rule(IMAGE_POSITIONS, ("visual.positional_embedding",), lead=1),
        Rule(f"{_IMAGE}patch_embed.proj.weight", ("visual.conv1.weight",)),
        *renamed(_IMAGE, "visual.", {"norm_pre": "ln_pre", "norm": "ln_post"}),
    ]
    for layer in range(depth):
        rules += _open_clip_block(f"{_IMAGE}blocks.{layer}.", f"visual.transformer.resblocks.{layer}.")
    return rules


def open_clip_text(depth: int, prefix: str = "") -> list[Rule]:
    """`ClipTextTransformer` beside open_clip's, which some models keep under the prefix "text."."""
    rules = [
        Rule(f"{_TEXT}token_embedding.weight", (f"{prefix}token_embedding.weight",)),
        Rule(TEXT_POSITIONS, (f"{prefix}positional_embedding",)),
        *renamed(_TEXT, prefix, {"final_norm": "ln_final"}),
    ]
    for layer in range(depth):
        rules += _open_clip_block(f"{_TEXT}transformer.{layer}.", f"{prefix}transformer.resblocks.{layer}.")
    return rules


def _open_clip_block(ours: str, theirs: str) -> list[Rule]:
    names = {"norm1": "ln_1", "norm2": "ln_2", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    joined = [Rule(f"{ours}attn.qkv.{end}", (f"{theirs}attn.in_proj_{end}",)) for end in ("weight", "bias")]
    return [*renamed(ours, theirs, names), *joined]


def open_clip_resnet(depths: tuple[int, ...]) -> list[Rule]:
    """Timm's CLIP ResNets beside open_clip's `visual.`; their last matrix is our projection."""
    rules = []
    for number in (1, 2, 3):
        rules += _convolution(f"{_IMAGE}stem.conv{number}.", "visual.", f"conv{number}", f"bn{number}")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours, theirs = f"{_IMAGE}stages.{stage}.{block}.", f"visual.layer{stage + 1}.{block}."
            for number, kernel in ((1, "1x1"), (2, "kxk"), (3, "1x1")):
                rules += _convolution(f"{ours}conv{number}_{kernel}.", theirs, f"conv{number}", f"bn{number}")
            if block == 0:
                rules += _convolution(f"{ours}shortcut.conv.", theirs, "downsample.0", "downsample.1")
    rules.append(Rule(f"{_IMAGE}head.pos_embed", ("visual.attnpool.positional_embedding",)))
    rules += renamed(f"{_IMAGE}head.", "visual.attnpool.", {part: f"{part}_proj" for part in "qkv"})
    return rules + renamed("image_projection", "visual.attnpool.c_proj", {"": ""})


def _convolution(ours: str, theirs: str, convolution: str, norm: str) -> list[Rule]:
    return [*renamed(ours, theirs, {"conv": convolution}, ["weight"]), *renamed(ours, theirs, {"bn": norm}, _BATCH_NORM)]


def transformers_vit(depth: int) -> list[Rule]:
    """Timm's Vision Transformer beside transformers' `vision_model.` of CLIP and those built alike."""
    theirs = "vision_model."
    rules = [
        Rule(f"{_IMAGE}cls_token", (f"{theirs}embeddings.class_embedding",), lead=2),
        Rule(IMAGE_POSITIONS, (f"{theirs}embeddings.position_embedding.weight",), lead=1),
        Rule(f"{_IMAGE}patch_embed.proj.weight", (f"{theirs}embeddings.patch_embedding.weight",)),
        *renamed(_IMAGE, theirs, {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}),
    ]
    for layer in range(depth):
        rules += _transformers_block(f"{_IMAGE}blocks.{layer}.", f"{theirs}encoder.layers.{layer}.")
    return rules


def transformers_text(depth: int) -> list[Rule]:
    """`ClipTextTransformer` beside transformers' `text_model.` of CLIP."""
    theirs = "text_model."
    rules = [
        Rule(f"{_TEXT}token_embedding.weight", (f"{theirs}embeddings.token_embedding.weight",)),
        Rule(TEXT_POSITIONS, (f"{theirs}embeddings.position_embedding.weight",)),
        *renamed(_TEXT, theirs, {"final_norm": "final_layer_norm"}),
    ]
    for layer in range(depth):
        rules += _transformers_block(f"{_TEXT}transformer.{layer}.", f"{theirs}encoder.layers.{layer}.")
    return rules


def _transformers_block(ours: str, theirs: str) -> list[Rule]:
    same = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    same |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    parts = [f"{theirs}self_attn.{part}_proj." for part in "qkv"]
    joined = [Rule(f"{ours}attn.qkv.{end}", tuple(part + end for part in parts)) for end in ("weight", "bias")]
    return [*renamed(ours, theirs, same), *joined]


def head(tower: str, theirs: str, *, bias: bool = False, transposed: bool = False) -> list[Rule]:
    """A linear projection; open_clip keeps those of CLIP as a transposed matrix without the ending `.weight`."""
    ours = f"{tower}_projection."
    rules = [Rule(f"{ours}weight", (theirs if transposed else f"{theirs}.weight",), transposed=transposed)]
    return [*rules, Rule(f"{ours}bias", (f"{theirs}.bias",))] if bias else rules


def temperature(*, bias: bool) -> list[Rule]:
    """The learned scale and, for sigmoid losses, the bias."""
    return [Rule(name, (name,), lead=1) for name in (("logit_scale", "logit_bias") if bias else ("logit_scale",))]
