"""Weights from anywhere: a name, folder or file arrives, arguments of `ClipModule` and its weights leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_clip.errors import InputError, existing_path
from lightning_clip.export.mismatch import check_fit
from lightning_clip.values import built, expanded, in_range

__all__ = ["Pretrained", "Source", "open_pretrained", "start_from"]

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


@dataclass(frozen=True)
class Source:
    """Where weights come from; the argument `pretrained` of `ClipModule`, as text or as a mapping.

    Args:
        source: `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder that open_clip, transformers or `export` wrote, a
            checkpoint of ours, or a file of weights.
        image_size: side in pixels, where it differs from the source's: position embeddings are resized.
        context_length: the most tokens of a caption, likewise.
        allow_pickle: read files that may run code. Only for files whose author you trust.
    """

    source: str
    image_size: int | None = None
    context_length: int | None = None
    allow_pickle: bool = False

    @classmethod
    def of(cls, value: str | Path | Mapping[str, Any] | Source) -> Source:
        """A source from its text, a mapping with "source", or itself.

        Raises:
            InputError: a setting that sources do not have, or a size below 1.
        """
        if isinstance(value, cls):
            return value
        settings: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"source": str(value)}
        settings.setdefault("source", "")
        found = built(cls, settings, "pretrained")
        if not found.source:
            raise InputError(f"pretrained {value!r} has no 'source': give a name, a folder or a file")
        for key in ("image_size", "context_length"):
            if (number := getattr(found, key)) is not None:
                in_range(f"pretrained.{key}", number, 1, whole=True)
        return found


@dataclass
class Pretrained:
    """What a source holds.

    Attributes:
        name: of the source, for messages.
        arguments: of `ClipModule`: towers, projection, embed_dim, loss, tokenizer, transform.
        weights: of `ClipModel`, by our names.
        problem: why the source's tokenizer could not be had, if so; the user must give one.
    """

    name: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    problem: InputError | None = None
    _replaced: tuple[str, ...] = field(default=(), repr=False)

    def load_into(self, model: nn.Module) -> None:
        """Copies the weights; what the user replaced keeps its random start.

        Raises:
            InputError: weights that are missing, left over, or of another shape, listed in groups.
        """
        state = model.state_dict()
        # How pixels are normalised is a setting, and so is whether the loss has a bias: there the user's word counts.
        optional = {"mean", "std"} | ({"logit_bias"} if ("logit_bias" in state) != ("logit_bias" in self.weights) else set())
        wanted = {key: value for key, value in state.items() if key not in optional and not key.startswith(self._replaced)}
        weights = {key: value for key, value in self.weights.items() if key not in optional}
        check_fit(self.name, wanted, weights)
        if any(value.is_meta for value in wanted.values()):  # a rank that receives its shard from the first one
            return
        model.load_state_dict(weights, strict=False)


def open_pretrained(value: str | Path | Mapping[str, Any] | Source) -> Pretrained:
    """Opens weights from anywhere, on the CPU; nothing in a file is executed unless `allow_pickle` says so.

    Raises:
        InputError: nothing of that name, no network, a file that is broken or of another architecture, or a size that the
            towers cannot take.
    """
    source = Source.of(value)
    # Here and below: each of these libraries is slow to import.
    from lightning_clip.export.from_open_clip import open_open_clip
    from lightning_clip.export.from_transformers import open_transformers
    from lightning_clip.export.own import SETTINGS_FILE, open_checkpoint, open_folder

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
