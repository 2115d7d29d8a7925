"""transformers' two-tower models as sources of weights: transformers builds and reads them, and both towers are translated."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning_clip.checkpoints.fit import groups
from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.weights.bounds import check_sizes
from lightning_clip.weights.files import TRUST, readable_settings, unreachable
from lightning_clip.weights.from_owlvit import DETECTORS, read_detector
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.towers import assemble
from lightning_clip.weights.transformers_families import BESIDE, FAMILIES, SAME_AS, sibling
from lightning_clip.weights.transformers_inputs import read_tokenizer, read_transform
from lightning_clip.weights.transformers_shapes import stored_shapes
from lightning_clip.weights.transformers_towers import read_image, read_naflex, read_text

__all__ = ["open_transformers", "quiet_loading"]


def open_transformers(name: str, source: Source) -> Pretrained:
    """Opens a hub name or a folder; no code of a repository is run.

    Raises:
        InputError: no such model, no network, a family that is not known, or weights that do not fit their settings.
    """
    if name.startswith(("/", "~", ".")):  # no name on the hub
        name = str(existing_path(name, "folder"))
    label = f"hf:{name}"
    model, loading = _load(name, label, source.allow_pickle)
    _check(loading, label)
    with readable_settings(label):
        translated = read_detector if model.config.model_type in DETECTORS else _translated
        found, problem = translated(name, model, source, label)
    found.problem = problem
    return found


def _translated(name: str, model: Any, source: Source, label: str) -> tuple[Pretrained, InputError | None]:
    """A live model in our words, and why its tokenizer cannot be read, if so."""
    family = SAME_AS.get(model.config.model_type, model.config.model_type)
    transform = read_transform(name, label)
    tokenizer, problem = read_tokenizer(name, model, label)
    if family == "siglip2":
        image, transform = read_naflex(model, source.image_size, transform, label)
    else:
        image = read_image(model, family, source.image_size, label)
    text, length = read_text(model, family, tokenizer, source.context_length, label)
    if tokenizer is not None:
        tokenizer["context_length"] = length
    found = assemble(label, (image, text), _scale(model), embed_dim=_width(model), tokenizer=tokenizer, transform=transform)
    return found, problem


def _scale(model: Any) -> dict[str, Any]:
    """`logit_scale`, the log of the inverse temperature, and `logit_bias`, where the model has them."""
    if (temperature := getattr(model, "temperature", None)) is not None:
        return {"logit_scale": -temperature.detach().log()}
    return {key: value for key in ("logit_scale", "logit_bias") if (value := getattr(model, key, None)) is not None}


def _width(model: Any) -> int:
    """Of the shared space."""
    if hasattr(model, "text_projection"):
        return len(model.text_projection.weight)
    config = model.text_model.config
    return int(getattr(config, "projection_size", None) or config.hidden_size)


def _load(name: str, label: str, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type in (*FAMILIES, *DETECTORS):
            options = {"trust_remote_code": False, "weights_only": not allow_pickle}
            # What does not fit is told by `_check`, in one line.
            options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
            _check_sizes(name, config, label)
            with quiet_loading():
                model, loading = _library(config).from_pretrained(name, config=config, **options)
            beside = BESIDE.get(config.model_type, ())
            loading["unexpected_keys"] = [key for key in loading["unexpected_keys"] if not key.startswith(beside or ("\0",))]
            return model.float().eval(), loading
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if allow_pickle:
            raise unreachable(label, error) from error
        raise InputError(
            f"the weights of {label} hold Python objects, and reading them may run code: if you trust their author, set {TRUST}"
        ) from error
    except Exception as error:  # of several libraries
        raise unreachable(label, error) from error
    if (other := sibling(config.model_type)) is not None:
        raise InputError(f"{label} is a {config.model_type!r} model, which {other}")
    raise InputError(
        f"{label} is a {config.model_type!r} model, and only these families of transformers map exactly: "
        f"{nearest(config.model_type, (*FAMILIES, *DETECTORS))}"
    )


def _library(config: Any) -> Any:
    """The class of transformers that reads such a model, with the head of those that detect."""
    from transformers import AutoModel, AutoModelForZeroShotObjectDetection

    return AutoModelForZeroShotObjectDetection if config.model_type in DETECTORS else AutoModel


def _check_sizes(name: str, config: Any, label: str) -> None:
    """Holds config.json against the weights' files, before there is memory for a model of any size."""
    if weights := stored_shapes(name):
        file = str(Path(name) / "config.json") if Path(name).is_dir() else label
        make: Any = _library(config).from_config
        check_sizes(file, config.to_dict(), weights, lambda: make(deepcopy(config), trust_remote_code=False))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' table of weights that do not fit."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check(loading: Mapping[str, Any], label: str) -> None:
    """Transformers fills what is missing with random numbers and only warns."""
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith("position_ids"))
    unexpected = sorted(key for key in loading["unexpected_keys"] if not key.endswith("position_ids"))
    kinds = {"of another shape": sorted(key for key, *_ in loading["mismatched_keys"]), "missing": missing}
    kinds["unexpected"] = unexpected
    if parts := [f"{len(keys)} {kind}: {groups(keys)}" for kind, keys in kinds.items() if keys]:
        raise InputError(f"the weights of {label} do not fit its config.json: {'; '.join(parts)}. Is the folder complete?")
