"""A recipe's model: towers, heads and temperature, built."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from lightning_clip.core.errors import InputError
from lightning_clip.core.network import hub_or_cache, is_hub_name
from lightning_clip.core.registry import LIVE, Registry
from lightning_clip.core.tensor_count import TooManyTensors, at_most_tensors
from lightning_clip.data.tokenizers import Tokenizer, tokenizers
from lightning_clip.encoders import TextEncoder, image_encoders, projections, text_encoders
from lightning_clip.encoders.base import ImageEncoder, Tower
from lightning_clip.encoders.base import towers as tower_registry
from lightning_clip.model.clip import ClipModel
from lightning_clip.model.recipe import Recipe
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD, SharedSpace

__all__ = ["Temperature", "build_model", "default_tokenizer", "tokenizer_of"]

_MOST_TENSORS = 50_000  # far more than the largest models have, and built in seconds
_REGISTRIES: dict[str, Registry[Any]] = {"image": image_encoders, "text": text_encoders}


class Temperature(NamedTuple):
    """How the logits' scale begins.

    Attributes:
        scale: inverse temperature.
        bias: of the logits, or None for no bias.
        learned: whether the scale has a gradient.
    """

    scale: float = 1 / 0.07
    bias: float | None = None
    learned: bool = True


def build_model(recipe: Recipe, tokenizer: Tokenizer | None, temperature: Temperature) -> SharedSpace:
    """The model; a `ClipModel` where there is an image and a text tower and nothing else.

    Raises:
        InputError: an unknown name or setting, or a tokenizer that the text encoder cannot read.
    """
    own = {column: spec for column, spec in recipe.towers.items() if spec.share is None}
    # Texts first and images next, so that a seed draws the weights it always drew.
    order = sorted(own, key=lambda column: {"text": 0, "image": 1}.get(column, 2))
    built = {column: _tower(column, own[column].tower, tokenizer) for column in order}
    transform = recipe.transform
    channels = transform.channel_count
    _check_channels(built.get("image"), channels)
    pixels: dict[str, Any] = {
        "mean": transform.mean or _of_channels(CLIP_MEAN, channels),
        "std": transform.std or _of_channels(CLIP_STD, channels),
    }
    start: dict[str, Any] = {"initial_scale": temperature.scale, "initial_bias": temperature.bias}
    heads = {column: spec.projection for column, spec in own.items()}
    if set(own) == {"image", "text"} and not recipe.share:
        model: SharedSpace = ClipModel(
            built["image"], built["text"], embed_dim=recipe.embed_dim, projection=heads, **start, **pixels
        )
    else:
        model = SharedSpace(
            {column: built[column] for column in own},
            {
                column: projections.build(spec, input_dim=built[column].output_dim, embed_dim=recipe.embed_dim)
                for column, spec in heads.items()
            },
            embed_dim=recipe.embed_dim,
            share=recipe.share,
            **start,
            **pixels,
        )
    model.pad_id = 0 if tokenizer is None else tokenizer.pad_id
    model.logit_scale.requires_grad_(temperature.learned)
    return model


def _of_channels(colours: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """CLIP's values for red, green and blue, or their mean for each of another number of channels."""
    return colours if channels == len(colours) else (round(sum(colours) / len(colours), 6),) * channels


def _check_channels(tower: Any, channels: int) -> None:
    """A tower of three channels would only fail at the first batch of another number."""
    if isinstance(tower, ImageEncoder) and tower.channels != channels:
        raise InputError(
            f"the image tower takes {tower.channels} channels and its transform gives {channels}: give a timm tower "
            f"in_chans: {channels} (small_conv: channels: {channels}), or omit the transform's channels for pictures of three"
        )


def default_tokenizer(text_encoder: Any) -> str:
    """An `hf:` tower brings its own tokenizer, everything else speaks CLIP's."""
    name = text_encoder.get("name", "") if isinstance(text_encoder, Mapping) else text_encoder
    if isinstance(name, str) and name.startswith("hf:"):
        return name
    path = text_encoder.get("path") if isinstance(text_encoder, Mapping) and name == "hf" else None
    return f"hf:{path}" if path else "clip"


def tokenizer_of(recipe: Recipe, predicted: bool = False) -> Any:
    """That of the recipe, or the one that belongs to its text tower; None where nothing reads texts.

    Args:
        recipe: with the towers that are read.
        predicted: whether texts are predicted, for which no tower is needed.

    Raises:
        InputError: no such tokenizer, or a broken one.
    """
    spec = recipe.towers.get("text")
    if spec is None and not predicted:
        return None
    given = default_tokenizer(spec and spec.tower) if recipe.tokenizer is None else recipe.tokenizer
    try:
        with _hub(f"tokenizer {_shown(given)}", given):
            return tokenizers.build(given)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the library of tokenizers, which is none of Python's Exceptions
            raise
        raise InputError(f"tokenizer {_shown(given)} is damaged ({error}): write it again") from error


def _tower(column: str, spec: Any, tokenizer: Tokenizer | None) -> Any:
    """One tower; a text tower is made for the tokenizer."""
    registry = _REGISTRIES.get(column, tower_registry)
    if column not in _REGISTRIES and isinstance(spec, Mapping) and LIVE in spec:
        raise InputError(
            f"the checkpoint was written with a live {spec[LIVE]} as the tower of column {column!r}, which it cannot hold: "
            f"pass it again, load_from_checkpoint(path, towers={{{column!r}: ...}}), or register the class under a name"
        )
    if column != "text" or tokenizer is None:
        tower = _built(registry, column, spec)
    else:
        tower = _built(registry, column, spec, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length)
        _check_tokenizer(tokenizer, tower)
    if not isinstance(tower, Tower):
        raise InputError(
            f"the tower of column {column!r} is a {type(tower).__name__}, which is no Tower: subclass "
            "lightning_clip.encoders.Tower"
        )
    return tower


def _built(registry: Registry[Any], column: str, spec: Any, **sizes: int) -> Any:
    """A tower from its settings; what is wrong with them is said by libraries in errors of every kind."""
    try:
        with at_most_tensors(_MOST_TENSORS), _hub(f"{column} tower {_shown(spec)}", spec):
            return registry.build(spec, **sizes)
    except TooManyTensors:
        raise InputError(
            f"{column} tower {_shown(spec)} has more than {_MOST_TENSORS:,} tensors: set a smaller depth (layers)"
        ) from None
    except (InputError, NotImplementedError):  # the latter where a library computes with tensors that have no memory
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if "meta" in str(error) or not _is_own(registry, spec):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{column} tower {_shown(spec)} cannot be built ({type(error).__name__}: {reason}): check its sizes"
        ) from error


def _hub(what: str, spec: Any) -> AbstractContextManager[None]:
    """Where a spec names something of a hub, without long waits for a network that is not there."""
    settings = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    names = [str(settings.get("name", "")), f"hf:{settings['path']}" if settings.get("path") else ""]
    asks = any(name.startswith(("hf:", "hf-hub:")) and is_hub_name(name.partition(":")[2]) for name in names)
    return hub_or_cache(what) if asks or settings.get("pretrained") is True else nullcontext()


def _is_own(registry: Registry[Any], spec: Any) -> bool:
    """Whether a tower is of this package, and not of a plug-in, whose faults are its own."""
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    found = registry.factory(name) if isinstance(name, str) else None
    return str(getattr(getattr(found, "func", found), "__module__", "")).startswith("lightning_clip.")


def _shown(spec: Any) -> str:
    """Settings in an error, without the end of very long ones."""
    text = repr(dict(spec) if isinstance(spec, Mapping) else spec)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _check_tokenizer(tokenizer: Tokenizer, text_encoder: TextEncoder) -> None:
    known = getattr(text_encoder, "vocab_size", None)
    if known is not None and tokenizer.vocab_size > known:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the text encoder embeds {known}: "
            f"set text_encoder.vocab_size to {tokenizer.vocab_size} or give the encoder's own tokenizer"
        )
    if tokenizer.context_length > text_encoder.context_length:
        raise InputError(
            f"the tokenizer's context_length {tokenizer.context_length} exceeds the text encoder's "
            f"{text_encoder.context_length}: set tokenizer.context_length to at most that"
        )
