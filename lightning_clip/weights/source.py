"""Where weights come from, and what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_clip.checkpoints.fit import check_fit
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import built, in_range
from lightning_clip.core.trust import check_trusted
from lightning_clip.model.recipe import Recipe

__all__ = ["Pretrained", "Source"]


@dataclass(frozen=True)
class Source:
    """Where weights come from; the argument `pretrained` of `ClipModule`, as text or as a mapping.

    Args:
        source: `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder that open_clip, transformers or `export` wrote, a
            checkpoint of ours, or a file of weights.
        image_size: side in pixels, where it differs from the source's: position embeddings are resized.
        context_length: the most tokens of a caption, likewise.
        allow_pickle: read files that may run code. Only for files whose author you trust.
        averaged: of a file that holds a running average of the weights (EMA) beside them, take that.
    """

    source: str
    image_size: int | None = None
    context_length: int | None = None
    allow_pickle: bool = False
    averaged: bool = False

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
        if found.allow_pickle:
            check_trusted(f"pretrained {found.source!r} with allow_pickle reads files that may run code")
        for key in ("image_size", "context_length"):
            if (number := getattr(found, key)) is not None:
                in_range(f"pretrained.{key}", number, 1, whole=True)
        return found


@dataclass
class Pretrained:
    """What a source holds.

    Attributes:
        name: of the source, for messages.
        recipe: towers, heads, transform, objective and tokenizer.
        weights: of `ClipModel`, by our names.
        problem: why the source's tokenizer could not be had, if so; the user must give one.
        parts: weights of what an objective adds to the model, such as a decoder.
        replaced: beginnings of the names of weights that a new tower has in its own form.
        inside: weights that a new tower has inside, such as the image tower in a video tower.
    """

    name: str
    recipe: Recipe
    weights: dict[str, Tensor]
    problem: InputError | None = None
    parts: dict[str, Tensor] = field(default_factory=dict, repr=False)
    replaced: tuple[str, ...] = field(default=(), repr=False)
    inside: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def load_into(self, model: nn.Module) -> None:
        """Copies the weights; what the user replaced keeps its random start.

        Raises:
            InputError: weights that are missing, left over, or of another shape, listed in groups.
        """
        state = model.state_dict()
        # How pixels are normalised is a setting, and so is whether the loss has a bias: there the user's word counts.
        optional = {"mean", "std"} | ({"logit_bias"} if ("logit_bias" in state) != ("logit_bias" in self.weights) else set())
        own = {key for key in state if key in self.inside or not key.startswith(self.replaced)}
        wanted = {key: value for key, value in state.items() if key not in optional and key in own}
        weights = {key: value for key, value in {**self.weights, **self.inside}.items() if key not in optional}
        if self.inside and not any(key.startswith("image_encoder.") for key in state):  # a new tower has taken them over
            weights = {
                key: value for key, value in weights.items() if not key.startswith(("image_encoder.", "image_projection."))
            }
        check_fit(self.name, wanted, weights)
        if any(value.is_meta for value in wanted.values()):  # a rank that receives its shard from the first one
            return
        model.load_state_dict(weights, strict=False)

    def load_parts_into(self, model: nn.Module) -> None:
        """Copies the weights of what an objective has added, where the model's objective has added it too.

        Raises:
            InputError: weights of such a part that are missing or of another shape.
        """
        state = model.state_dict()
        names = {key.partition(".")[0] for key in self.parts} & {key.partition(".")[0] for key in state}
        wanted = {key: value for key, value in state.items() if key.partition(".")[0] in names}
        weights = {key: value for key, value in self.parts.items() if key.partition(".")[0] in names}
        check_fit(self.name, wanted, weights)
        if not any(value.is_meta for value in wanted.values()):
            model.load_state_dict(weights, strict=False)
