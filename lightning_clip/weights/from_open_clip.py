"""open_clip's models as sources of weights: open_clip builds and reads a name or a folder, and both towers are translated."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.checkpoints.fit import check_fit
from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.settings import mapping
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.weights.bounds import check_sizes, shapes_of
from lightning_clip.weights.files import read_weights, readable_settings, unreachable
from lightning_clip.weights.open_clip_decoder import with_decoder
from lightning_clip.weights.open_clip_images import read_image
from lightning_clip.weights.open_clip_inputs import read_tokenizer, read_transform
from lightning_clip.weights.open_clip_texts import read_text
from lightning_clip.weights.openai import is_openai, openai_config, plain_names
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.towers import assemble

__all__ = ["open_open_clip", "open_openai"]


@dataclass
class _Found:
    """A model of open_clip before it is built: its name there, settings, where its weights are, and the settings' file."""

    name: str
    config: dict[str, Any]
    file: Path
    preprocess: dict[str, Any] = field(default_factory=dict)
    settings: str = ""


def open_open_clip(name: str, source: Source) -> Pretrained:
    """Opens NAME/TAG, NAME/FILE, hf-hub:REPOSITORY or local-dir:FOLDER.

    Raises:
        InputError: unknown name or tag, no network, or weights that do not fit.
    """
    import open_clip

    label = f"open_clip:{name}"
    with _explained(label):
        found = _folder(name) if name.startswith("local-dir:") else _hub(name) if name.startswith("hf-hub:") else _named(name)
    weights = _read(found.file, source)
    if is_openai(weights):
        found.config["quick_gelu"] = True  # all of OpenAI's weights were trained so, whatever name they are given
    if found.settings and weights:
        _check_sizes(found, weights)
    with _explained(label), _quiet():
        options = {"force_quick_gelu": bool(found.config.get("quick_gelu"))}
        model = open_clip.create_model(found.name, load_weights=False, pretrained_text=False, **options).eval()
    _load(model, weights, found.file, label)
    tokens, problem = _tokenizer(found, label)
    with readable_settings(found.settings) if found.settings else nullcontext():
        preprocess = open_clip.get_model_preprocess_cfg(model) | found.preprocess
        translated = _translated(model, found.config, tokens, preprocess, source, label)
    translated.problem = problem
    return translated


def open_openai(weights: dict[str, Tensor], source: Source, label: str) -> Pretrained:
    """OpenAI's own weights, whose sizes tell the architecture."""
    from open_clip import get_tokenizer
    from open_clip.model import CLIP

    weights = plain_names(weights)
    config = openai_config(weights)
    model = CLIP(**config).eval()
    _load(model, weights, Path(label), label)
    size = config["vision_cfg"]["image_size"]
    preprocess = {"size": size, "mean": CLIP_MEAN, "std": CLIP_STD}
    return _translated(model, config, read_tokenizer(get_tokenizer("ViT-B-32"), label), preprocess, source, label)


def _translated(
    model: Any, config: dict[str, Any], tokens: dict[str, Any] | None, preprocess: dict[str, Any], source: Source, label: str
) -> Pretrained:
    image = read_image(model.visual, config, source.image_size, label)
    text, length = read_text(model, config, tokens, source.context_length)
    tokens = None if tokens is None else {**tokens, "context_length": length}
    scale = {key: value for key in ("logit_scale", "logit_bias") if (value := getattr(model, key, None)) is not None}
    width = int(config["embed_dim"])
    found = assemble(label, (image, text), scale, embed_dim=width, tokenizer=tokens, transform=read_transform(preprocess))
    return with_decoder(found, model, config) if config.get("multimodal_cfg") else found


def _named(name: str) -> _Found:
    import open_clip

    model_name, _, pretrained = name.partition("/")
    if not pretrained:
        raise InputError(f"pretrained 'open_clip:{name}' must be open_clip:NAME/WEIGHTS, such as open_clip:ViT-B-32/openai")
    if model_name not in (known := open_clip.list_models()):
        raise InputError(f"open_clip has no model {model_name!r}: {nearest(model_name, known)}")
    config = deepcopy(open_clip.get_model_config(model_name))
    if (file := Path(pretrained).expanduser()).is_file() or file.suffix or "/" in pretrained:  # no tag has a dot or a slash
        return _Found(model_name, config, existing_path(file, f"the file of {model_name}'s weights"))
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if pretrained not in tags:
        raise InputError(f"open_clip has no weights {pretrained!r} of {model_name}: {nearest(pretrained, tags)}, or a file")
    settings = open_clip.get_pretrained_cfg(model_name, pretrained)
    # Weights that tell their activation know it: open_clip itself only warns where name and tag disagree.
    config["quick_gelu"] = bool(settings.get("quick_gelu", config.get("quick_gelu", False)))
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: settings[key] for key in keys if settings.get(key) is not None}
    return _Found(model_name, config, Path(open_clip.download_pretrained(settings)), preprocess)


def _hub(name: str) -> _Found:
    from open_clip.factory import _get_hf_config, download_pretrained_from_hf

    config = _get_hf_config(name.removeprefix("hf-hub:"))
    file = Path(download_pretrained_from_hf(name.removeprefix("hf-hub:")))
    return _Found(name, _model_settings(config, name), file, settings=f"open_clip:{name}")


def _folder(name: str) -> _Found:
    from open_clip.factory import _find_checkpoint_in_dir

    folder = existing_path(name.removeprefix("local-dir:"), "folder")
    settings = folder / "open_clip_config.json"
    config = _model_settings(json.loads(settings.read_text("utf-8")), str(settings))
    if (file := _find_checkpoint_in_dir(folder)) is None:
        raise InputError(f"folder {str(folder)!r} has open_clip's configuration but no weights: open_clip_model.safetensors")
    return _Found(f"local-dir:{folder}", config, Path(file), settings=str(settings))


def _model_settings(content: Any, file: str) -> dict[str, Any]:
    """The settings of the model in an open_clip_config.json.

    Raises:
        InputError: another kind of file, or none of a tower.
    """
    found = mapping(mapping(content, f"{file!r}: what it holds").get("model_cfg"), f"{file!r}: model_cfg")
    for key in ("vision_cfg", "text_cfg"):
        if not mapping(found.get(key), f"{file!r}: model_cfg.{key}"):
            raise InputError(f"{file!r} has no model_cfg.{key}: export the model again")
    return found


def _check_sizes(found: _Found, weights: dict[str, Tensor]) -> None:
    """Holds the settings against the weights, before there is memory for a model of any size."""
    import open_clip

    config = {key: value for key, value in found.config.items() if key != "custom_text"}
    config["text_cfg"] = {**config["text_cfg"], "hf_model_pretrained": False}
    config["vision_cfg"] = {**config["vision_cfg"], "timm_model_pretrained": False}
    kind = open_clip.CLIP
    if found.config.get("custom_text") or "hf_model_name" in config["text_cfg"]:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    plain = plain_names(weights)
    with _quiet():
        check_sizes(
            found.settings,
            config,
            shapes_of(plain),
            lambda: kind(**config),
            lambda model: shapes_of(_named_as(model, dict(plain))),
        )


def _read(file: Path, source: Source) -> dict[str, Tensor]:
    return {} if file.suffix in (".npz", ".npy") else read_weights(file, source.allow_pickle, source.averaged)


def _load(model: Any, weights: dict[str, Tensor], file: Path, label: str) -> None:
    """Fills open_clip's model by open_clip's own conversions of older and foreign names."""
    if not weights:
        _load_big_vision(model, file, label)
        return
    own = model.state_dict()
    weights = _fitted(own, _named_as(model, plain_names(weights)))
    check_fit(label, own, weights)
    model.load_state_dict(weights)


def _load_big_vision(model: Any, file: Path, label: str) -> None:
    from open_clip.convert import load_big_vision_weights

    try:
        load_big_vision_weights(model, str(file))
    except Exception as error:  # numpy's, or of a tower that SigLIP's weights have no place in
        raise InputError(
            f"{str(file)!r} does not fit {label} ({type(error).__name__}: {error}): .npz files hold big_vision's weights "
            "of SigLIP, name the architecture that they were trained with"
        ) from error


def _named_as(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the model has them: text towers used to have no prefix, or have one now."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    weights = convert_state_dict(model, weights)
    if hasattr(model, "positional_embedding"):
        return {key.removeprefix("text."): value for key, value in weights.items()}
    return convert_to_custom_text_state_dict(weights) if "positional_embedding" in weights else weights


def _fitted(own: Mapping[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scales of the model's shape, and nothing that follows from the settings, which older versions stored."""
    derived = ("attn_mask", "position_ids")
    found = {key: value for key, value in weights.items() if key in own or not key.endswith(derived)}
    for key in {"logit_scale", "logit_bias"} & own.keys() & found.keys():
        found[key] = found[key].reshape(own[key].shape)
    if "logit_bias" in own:
        found.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    return found


def _tokenizer(found: _Found, label: str) -> tuple[dict[str, Any] | None, InputError | None]:
    """The tokenizer as a mapping of ours, or why there is none."""
    import open_clip

    settings = found.config["text_cfg"]
    # open_clip passes on what a configuration says, and so would run code that came with the weights.
    safe = {"trust_remote_code": False} if settings.get("hf_tokenizer_name") else {}
    try:
        with _quiet():
            live = open_clip.get_tokenizer(found.name, **safe)
        return read_tokenizer(live, label), None
    except InputError as error:
        return None, error
    except Exception as error:  # of several libraries
        clean = settings.get("tokenizer_kwargs", {}).get("clean", "whitespace")  # open_clip's default
        return None, InputError(
            f"the tokenizer of {label} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:160]}): pass "
            f"one that belongs to these weights, tokenizer={{'name': 'hf:NAME_OR_FOLDER', 'clean': {clean!r}, "
            f"'context_length': {settings.get('context_length', 77)}}}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warnings, of weights that it does not load among others: they are loaded right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _explained(label: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of several libraries
        raise unreachable(label, error) from error
