"""Our own formats as sources of weights: checkpoints, and folders that `export` wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_clip.adapt.lora import has_parts
from lightning_clip.checkpoints.checking import CLASS_KEY, check_content
from lightning_clip.checkpoints.reading import is_in_parts
from lightning_clip.checkpoints.trained_only import BASE_KEY
from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.model.build import Temperature, build_model, tokenizer_of
from lightning_clip.model.recipe import Recipe, TowerSpec
from lightning_clip.objectives import build_objective
from lightning_clip.weights.bounds import Shapes, check_sizes, shapes_of
from lightning_clip.weights.files import read_file, read_weights
from lightning_clip.weights.openai import is_openai, plain_names
from lightning_clip.weights.positions import resized_grid, resized_row
from lightning_clip.weights.source import Pretrained, Source

__all__ = [
    "RECIPE_KEYS",
    "SETTINGS_FILE",
    "WEIGHTS_FILE",
    "check_recipe",
    "check_stored",
    "open_checkpoint",
    "open_folder",
    "parts_of",
]

log = logging.getLogger(__name__)

# Of a module's stored arguments, those that make a `Recipe`.
RECIPE_KEYS = ("image_encoder", "text_encoder", "towers", "embed_dim", "objective", "tokenizer")
_BESIDE_TOWERS = {"logit_scale", "logit_bias", "mean", "std"}
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
    check_content(content, f"pretrained {str(path)!r}")
    settings = content.get("hyper_parameters", {})
    if BASE_KEY in content or has_parts(content["state_dict"]):
        raise InputError(
            f"pretrained {str(path)!r} holds adapters, separate embeddings for new tokens, or only what was trained: make "
            f"whole weights of it with lightning-clip checkpoint merge {path} WHOLE.ckpt"
        )
    try:
        recipe = Recipe.from_mapping(settings)
    except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"pretrained {str(path)!r} has settings that build no model ({error}): write it again") from error
    own = {key.removeprefix("model."): value for key, value in content["state_dict"].items() if key.startswith("model.")}
    parts = _kept(own, recipe)
    weights = _of_every_model({key: value for key, value in own.items() if key not in parts}, parts_of(recipe), path)
    check_recipe(str(path), settings, recipe, shapes_of(weights))
    return _resized(Pretrained(str(path), recipe, weights, parts=parts), source)


def parts_of(recipe: Recipe) -> set[str]:
    """Names of what every model of this recipe has: towers, heads, temperature and normalisation."""
    own = [column for column, spec in recipe.towers.items() if spec.share is None]
    return _BESIDE_TOWERS | {f"{column}_{kind}" for column in own for kind in ("encoder", "projection")}


def _of_every_model(state: dict[str, Tensor], parts: set[str], path: Path) -> dict[str, Tensor]:
    """Towers, heads and temperature of a module's state; what an objective has learned beside is ignored with a warning."""
    if others := sorted({key.partition(".")[0] for key in state} - parts):
        log.warning("pretrained %r has weights beside its towers (%s): they are ignored", str(path), ", ".join(others))
    return {key: value for key, value in state.items() if key.partition(".")[0] in parts}


def _kept(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Weights of those parts of the objective with which a new run goes on."""
    try:
        kept = build_objective(recipe.objective).lasting_parts()
    except InputError:  # of a live object or a plug-in, without which the towers can be had
        return {}
    return {key: value for key, value in state.items() if key.partition(".")[0] in kept}


def check_recipe(file: str, settings: Mapping[str, Any], recipe: Recipe, weights: Shapes) -> None:
    """Refuses settings that build another model than the weights are of, before there is memory for it.

    Args:
        file: that holds the settings, for messages.
        settings: as they stand there.
        recipe: the same.
        weights: shapes by our names.
    """
    built = {key: value for key, value in settings.items() if key in RECIPE_KEYS and key not in ("objective", "tokenizer")}
    start = Temperature(bias=0.0 if "logit_bias" in weights else None)
    check_sizes(file, built, weights, lambda: build_model(recipe, tokenizer_of(recipe), start))


def check_stored(path: str, content: Mapping[str, Any]) -> None:
    """As `check_recipe`, of a checkpoint; those that hold only a part of their weights are passed over.

    Args:
        path: of the checkpoint, for messages.
        content: of it.
    """
    settings, state = content.get("hyper_parameters"), content["state_dict"]
    if not isinstance(settings, Mapping) or BASE_KEY in content or has_parts(state) or settings.get("pretrained"):
        return
    try:
        recipe = Recipe.from_mapping(settings)
    except (ValueError, KeyError, TypeError, AttributeError):  # of a class with arguments of its own, or said while it is built
        return
    if all(spec.is_given for spec in recipe.towers.values()):
        own = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        check_recipe(path, settings, recipe, shapes_of(own))


def _check_objective(value: Any) -> None:
    """Refuses what names no objective; from Python one may be an object, from a file never."""
    if isinstance(value, list) and value:
        for entry in value:
            _check_objective(entry)
        return
    named = isinstance(value, Mapping) and isinstance(value.get("name"), str)
    if not (named or isinstance(value, str)):
        raise InputError(f"objective {str(value)[:100]!r} is no name and no mapping with one")
    if named and "loss" in value and not isinstance(value["loss"], str | Mapping):
        raise InputError(f"objective.loss {str(value['loss'])[:100]!r} is no name and no mapping with one")


def open_folder(folder: Path, source: Source) -> Pretrained:
    """What `lightning-clip export --format safetensors` wrote."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))
        recipe = Recipe.from_mapping(settings)
        _check_objective(settings["objective"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(folder / SETTINGS_FILE)!r} is broken ({error}): export the model again") from error
    weights = read_file(existing_path(folder / WEIGHTS_FILE, "weights"), source.allow_pickle)
    parts = _kept(weights, recipe)
    weights = {key: value for key, value in weights.items() if key not in parts}
    check_recipe(str(folder / SETTINGS_FILE), settings, recipe, shapes_of(weights))
    return _resized(Pretrained(str(folder), recipe, weights, parts=parts), source)


def _foreign(path: Path, source: Source) -> Pretrained:
    """A file that tells its own architecture: OpenAI's and Chinese-CLIP's do."""
    from lightning_clip.weights.from_chinese_clip import is_chinese_clip, open_chinese_clip
    from lightning_clip.weights.from_open_clip import open_openai

    weights = read_weights(path, source.allow_pickle, source.averaged)
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
    towers, tokenizer = dict(found.recipe.towers), found.recipe.tokenizer
    if source.image_size is not None:
        towers["image"] = _resized_image(found, source.image_size)
    if source.context_length is not None:
        spec, key = towers["text"].tower, "text_encoder.positional_embedding"
        if spec["name"] == "clip_text":
            found.weights[key] = resized_row(found.weights[key], source.context_length)
            towers["text"] = replace(towers["text"], tower={**spec, "context_length": source.context_length})
        tokenizer = {**tokenizer, "context_length": source.context_length}
    found.recipe = replace(found.recipe, towers=towers, tokenizer=tokenizer)
    return found


def _resized_image(found: Pretrained, size: int) -> TowerSpec:
    """The image tower at another side in pixels; its position embeddings are resized in `found.weights`."""
    tower, weights = found.recipe.towers["image"], found.weights
    spec = tower.tower
    if "image_size" not in spec:
        raise InputError(f"the image size of the {spec['name']!r} tower in {found.name!r} cannot be changed: omit image_size")
    key, patches = "image_encoder.model.pos_embed", weights.get("image_encoder.model.patch_embed.proj.weight")
    if key in weights and patches is not None:
        patch = patches.shape[-1]
        others = weights[key].shape[1] - (spec["image_size"] // patch) ** 2
        weights[key] = resized_grid(weights[key], size, patch, class_tokens=others)
    return replace(tower, tower={**spec, "image_size": size})
