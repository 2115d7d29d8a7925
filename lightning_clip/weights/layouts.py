"""The names of CLIP's weights: our towers beside OpenAI's and open_clip's layout, and beside transformers'."""

from __future__ import annotations

from lightning_clip.weights.rules import Rule, renamed

__all__ = [
    "head",
    "open_clip_resnet",
    "open_clip_text",
    "open_clip_vit",
    "temperature",
    "transformers_text",
    "transformers_vit",
]

_IMAGE, _TEXT = "image_encoder.model.", "text_encoder."
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def open_clip_vit(depth: int) -> list[Rule]:
    """Timm's Vision Transformer beside open_clip's `visual.`, without projection."""
    rules = [
        Rule(f"{_IMAGE}cls_token", ("visual.class_embedding",), lead=2),
        Rule(f"{_IMAGE}pos_embed", ("visual.positional_embedding",), lead=1),
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
        Rule(f"{_TEXT}positional_embedding", (f"{prefix}positional_embedding",)),
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
        Rule(f"{_IMAGE}pos_embed", (f"{theirs}embeddings.position_embedding.weight",), lead=1),
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
        Rule(f"{_TEXT}positional_embedding", (f"{theirs}embeddings.position_embedding.weight",)),
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
