"""Our own formats: a checkpoint or a folder that `export` wrote arrives, `Pretrained` leaves."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from torch import Tensor

from lightning_clip.adapt.lora import has_parts
from lightning_clip.checkpoints.reading import CLASS_KEY, is_in_parts
from lightning_clip.checkpoints.trained_only import BASE_KEY
from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.weights.files import is_openai, plain_names, read_file, read_weights
from lightning_clip.weights.positions import resized_grid, resized_row
from lightning_clip.weights.source import Pretrained, Source

__all__ = ["ARGUMENTS", "PARTS", "SETTINGS_FILE", "WEIGHTS_FILE", "open_checkpoint", "open_folder"]

log = logging.getLogger(__name__)

# Of ClipModule's, those that say what the towers are and how they are fed.
ARGUMENTS = ("image_encoder", "text_encoder", "embed_dim", "loss", "projection", "tokenizer", "transform")
# Of ClipModel's state, what is of every model; subclasses of ClipModule add parts of their own.
PARTS = {"image_encoder", "text_encoder", "image_projection", "text_projection", "logit_scale", "logit_bias", "mean", "std"}
SETTINGS_FILE, WEIGHTS_FILE = "lightning_clip.json", "model.safetensors"


def open_checkpoint(path: Path, source: Source) -> Pretrained:
    """A .ckpt that Lightning wrote of a `ClipModule` or a subclass."""
    if path.is_dir():
        remedy = (
            f"make one file of it with lightning-clip checkpoint consolidate {path} --output FILE.ckpt"
            if is_in_parts(path)
            else "name a .ckpt in it, or a folder that open_clip, transformers or lightning-clip export wrote"
        )
        raise InputError(f"pretrained {str(path)!r} is a folder without weights that can be read: {remedy}")
    content = read_file(path, source.allow_pickle)
    if CLASS_KEY not in content:
        return _foreign(path, source)
    settings = content["hyper_parameters"]
    if BASE_KEY in content or has_parts(content["state_dict"]):
        raise InputError(
            f"pretrained {str(path)!r} holds adapters, new tokens apart or only what was trained: make whole weights of it "
            f"with lightning-clip checkpoint merge {path} WHOLE.ckpt"
        )
    weights = _of_every_model(content["state_dict"], path)
    return _resized(Pretrained(str(path), {key: settings.get(key) for key in ARGUMENTS}, weights), source)


def _of_every_model(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Towers, heads and temperature of a module's state; what a subclass has learned beside them is left out and named."""
    own = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    if others := sorted({key.partition(".")[0] for key in own} - PARTS):
        log.warning("pretrained %r has weights beside its two towers (%s): they are left out", str(path), ", ".join(others))
    return {key: value for key, value in own.items() if key.partition(".")[0] in PARTS}


def open_folder(folder: Path, source: Source) -> Pretrained:
    """What `lightning-clip export --format safetensors` wrote."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))
        arguments = {key: settings[key] for key in ARGUMENTS}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(folder / SETTINGS_FILE)!r} is broken ({error}): export the model again") from error
    weights = read_file(existing_path(folder / WEIGHTS_FILE, "weights"), source.allow_pickle)
    return _resized(Pretrained(str(folder), arguments, weights), source)


def _foreign(path: Path, source: Source) -> Pretrained:
    """A file that tells its own architecture: OpenAI's and Chinese-CLIP's do."""
    from lightning_clip.weights.from_chinese_clip import is_chinese_clip, open_chinese_clip
    from lightning_clip.weights.from_open_clip import open_openai

    weights = read_weights(path, source.allow_pickle)
    if is_openai(weights):
        return open_openai(weights, source, str(path))
    weights = plain_names(weights)
    if is_chinese_clip(weights):
        return open_chinese_clip(weights, source, str(path))
    raise InputError(
        f"pretrained {str(path)!r} is no checkpoint of ours and does not tell its architecture: name that before the file, as "
        f"in open_clip:ViT-B-32/{path}"
    )


def _resized(found: Pretrained, source: Source) -> Pretrained:
    """Other sizes for the towers that have them as settings."""
    arguments, weights = found.arguments, found.weights
    if source.image_size is not None:
        spec = arguments["image_encoder"]
        if "image_size" not in spec:
            raise InputError(
                f"the image size of the {spec['name']!r} tower in {found.name!r} cannot be changed: leave image_size out"
            )
        key, patches = "image_encoder.model.pos_embed", weights.get("image_encoder.model.patch_embed.proj.weight")
        if key in weights and patches is not None:
            patch = patches.shape[-1]
            others = weights[key].shape[1] - (spec["image_size"] // patch) ** 2
            weights[key] = resized_grid(weights[key], source.image_size, patch, class_tokens=others)
        arguments["image_encoder"] = {**spec, "image_size": source.image_size}
    if source.context_length is not None:
        spec, key = arguments["text_encoder"], "text_encoder.positional_embedding"
        if spec["name"] == "clip_text":
            weights[key] = resized_row(weights[key], source.context_length)
            arguments["text_encoder"] = {**spec, "context_length": source.context_length}
        arguments["tokenizer"] = {**arguments["tokenizer"], "context_length": source.context_length}
    return found
