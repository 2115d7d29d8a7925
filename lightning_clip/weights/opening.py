"""Weights from anywhere: a name, folder or file arrives, arguments of `ClipModule` and its weights leave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.settings import expanded
from lightning_clip.weights.source import Pretrained, Source

__all__ = ["open_pretrained", "start_from"]

_DEFAULTS = {
    "image_encoder": "vit_base_patch32_clip_224",
    "text_encoder": "clip_text_base",
    "embed_dim": 512,
    "loss": "softmax",
    "projection": "linear",
}
# What a tower of the user's own takes the place of.
_TOWERS = {
    "image_encoder": ("image_encoder.", "image_projection."),
    "text_encoder": ("text_encoder.", "text_projection."),
}


def open_pretrained(value: str | Path | Mapping[str, Any] | Source) -> Pretrained:
    """Opens weights from anywhere, on the CPU; nothing in a file is executed unless `allow_pickle` says so.

    Raises:
        InputError: nothing of that name, no network, a file that is broken or of another architecture, or a size that the
            towers cannot take.
    """
    source = Source.of(value)
    # Here and below: each of these libraries is slow to import.
    from lightning_clip.weights.from_open_clip import open_open_clip
    from lightning_clip.weights.from_transformers import open_transformers
    from lightning_clip.weights.own import SETTINGS_FILE, open_checkpoint, open_folder

    if source.source.startswith("open_clip:"):
        return open_open_clip(source.source.removeprefix("open_clip:"), source)
    if source.source.startswith("hf:"):
        return open_transformers(expanded(source.source.removeprefix("hf:")), source)
    path = existing_path(source.source, "pretrained (a checkpoint, open_clip:NAME/TAG, hf:NAME or a folder)")
    if (path / SETTINGS_FILE).is_file():
        return open_folder(path, source)
    if (path / "open_clip_config.json").is_file():
        return open_open_clip(f"local-dir:{path}", source)
    if (path / "config.json").is_file():
        return open_transformers(str(path), source)
    return open_checkpoint(path, source)


def start_from(
    pretrained: str | Mapping[str, Any] | Source | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], Pretrained | None]:
    """Completes the arguments of `ClipModule`: with what `pretrained` brings, or with the defaults.

    Args:
        pretrained: see `Source`; None starts from random weights.
        given: arguments of the user's, None meaning not given. A tower that is given is new, and so is its head; a
            mapping for `transform` changes single settings.

    Returns:
        All arguments, and the weights.

    Raises:
        InputError: as `open_pretrained`, or arguments that leave nothing of the source.
    """
    if pretrained is None:
        return {key: _DEFAULTS.get(key) if value is None else value for key, value in given.items()}, None
    found = open_pretrained(pretrained)
    arguments = {key: found.arguments.get(key) if value is None else value for key, value in given.items()}
    new = [tower for tower in _TOWERS if given[tower] is not None]
    if len(new) == len(_TOWERS):
        raise InputError(f"both towers are given, so that nothing of pretrained {found.name!r} is left: leave out one of them")
    if given["embed_dim"] not in (None, found.arguments["embed_dim"]):
        raise InputError(
            f"embed_dim {given['embed_dim']} is not that of pretrained {found.name!r}, {found.arguments['embed_dim']}: "
            "leave it out"
        )
    if new and given["projection"] is None:
        arguments["projection"] = _with_new_head(found.arguments["projection"], new[0].partition("_")[0])
    if "text_encoder" in new:
        arguments["tokenizer"] = given["tokenizer"]
    elif given["tokenizer"] is None and found.problem is not None:
        raise found.problem
    elif given["tokenizer"] is not None and found.arguments["tokenizer"] is not None:
        _check_vocabulary(found, given["tokenizer"])
    elif given["tokenizer"] is not None:
        arguments["text_encoder"] = _padded_by(given["tokenizer"], found.arguments["text_encoder"])
    if isinstance(given["transform"], Mapping):
        arguments["transform"] = {**(found.arguments["transform"] or {}), **given["transform"]}
    found._replaced = tuple(prefix for tower in new for prefix in _TOWERS[tower])
    found.weights = {key: value for key, value in found.weights.items() if not key.startswith(found._replaced)}
    return arguments, found


def _with_new_head(projection: Any, tower: str) -> dict[str, Any]:
    """The source's heads, a plain linear one in place of the new tower's."""
    heads = (
        projection
        if isinstance(projection, Mapping) and "name" not in projection
        else dict.fromkeys(("image", "text"), projection)
    )
    return {**heads, tower: "linear"}


def _padded_by(tokenizer: Any, tower: Any) -> Any:
    """A text tower that pads captions itself, with the id that the tokenizer has for it if the source told none."""
    from lightning_clip.data.tokenizers import tokenizers

    return {**tower, "pad_id": tokenizers.build(tokenizer).pad_id} if tower.get("pad_id", 0) is None else tower


def _check_vocabulary(found: Pretrained, tokenizer: Any) -> None:
    from lightning_clip.data.tokenizers import tokenizers

    given, expected = tokenizers.build(tokenizer), tokenizers.build(found.arguments["tokenizer"])
    if given.vocab_size != expected.vocab_size:
        raise InputError(
            f"the tokenizer has {given.vocab_size} ids but the text tower of {found.name!r} was trained with "
            f"{expected.vocab_size}: leave tokenizer out, or give the one that belongs to these weights"
        )
