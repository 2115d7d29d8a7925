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
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.towers import assemble
from lightning_clip.weights.transformers_families import FAMILIES
from lightning_clip.weights.transformers_inputs import read_tokenizer, read_transform
from lightning_clip.weights.transformers_shapes import stored_shapes
from lightning_clip.weights.transformers_towers import read_image, read_text

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
        found, problem = _translated(name, model, source, label)
    found.problem = problem
    return found


def _translated(name: str, model: Any, source: Source, label: str) -> tuple[Pretrained, InputError | None]:
    """A live model in our words, and why its tokenizer cannot be read, if so."""
    family = model.config.model_type
    tokenizer, problem = read_tokenizer(name, model, label)
    image = read_image(model, family, source.image_size, label)
    text, length = read_text(model, family, tokenizer, source.context_length, label)
    if tokenizer is not None:
        tokenizer["context_length"] = length
    scale = {key: value for key in ("logit_scale", "logit_bias") if (value := getattr(model, key, None)) is not None}
    width = len(model.text_projection.weight) if hasattr(model, "text_projection") else model.text_model.config.projection_size
    transform = read_transform(name, label)
    found = assemble(label, (image, text), scale, embed_dim=int(width), tokenizer=tokenizer, transform=transform)
    return found, problem


def _load(name: str, label: str, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type in FAMILIES:
            options = {"trust_remote_code": False, "weights_only": not allow_pickle}
            # What does not fit is told by `_check`, in one line.
            options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
            _check_sizes(name, config, label)
            with quiet_loading():
                model, loading = AutoModel.from_pretrained(name, config=config, **options)
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
    if config.model_type == "siglip2":
        raise InputError(
            f"{label} is a SigLIP 2 of variable size (NaFlex), whose pictures keep their shape; here all have one shape: "
            "use the weights of a fixed size, such as hf:google/siglip2-base-patch16-224"
        )
    raise InputError(
        f"{label} is a {config.model_type!r} model, and only these families of transformers map exactly: "
        f"{nearest(config.model_type, FAMILIES)}"
    )


def _check_sizes(name: str, config: Any, label: str) -> None:
    """Holds config.json against the weights' files, before there is memory for a model of any size."""
    from transformers import AutoModel

    if weights := stored_shapes(name):
        file = str(Path(name) / "config.json") if Path(name).is_dir() else label
        make: Any = AutoModel.from_config
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
