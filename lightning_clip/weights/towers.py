"""Towers on their way: what a source holds of one, what another library holds of one, and two of them as a `Pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import ImageEncoder, TextEncoder
from lightning_clip.model.recipe import Recipe, TowerSpec
from lightning_clip.model.space import SharedSpace
from lightning_clip.weights.rules import Rule
from lightning_clip.weights.source import Pretrained

__all__ = ["ForeignTower", "NotHeld", "TowerWeights", "TwoTowers", "assemble", "mlp_ratio", "under"]


@dataclass
class TowerWeights:
    """What a source holds of one modality, in our words.

    Attributes:
        spec: mapping from which the registry builds the encoder.
        head: mapping of its projection.
        weights: of both, by our names.
    """

    spec: dict[str, Any]
    head: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)


@dataclass
class ForeignTower:
    """A tower of ours as another library has it.

    Attributes:
        settings: from which the library builds it, such as open_clip's `vision_cfg`.
        rules: names of its weights, and of its head's.
        quick_gelu: what it needs open_clip's flag for the activation to be; None where the flag does nothing.
        custom: whether open_clip keeps its weights under "text.".
        extra: weights that the library has and we do not, by its names.
        before: rules that make weights of the form in `rules` from those of the model, where it has another form.
    """

    settings: dict[str, Any]
    rules: list[Rule]
    quick_gelu: bool | None = None
    custom: bool = False
    extra: dict[str, Tensor] = field(default_factory=dict)
    before: list[Rule] = field(default_factory=list)


class TwoTowers(NamedTuple):
    """An image and a text tower with their heads, which is all that other libraries hold.

    Attributes:
        image: the image tower.
        text: the text tower.
        image_head: projection (B, W) -> (B, D) of the image tower.
        text_head: of the text tower.
        bias: of the logits (1,), None where they have none.
    """

    image: ImageEncoder
    text: TextEncoder
    image_head: nn.Module
    text_head: nn.Module
    bias: Tensor | None

    @classmethod
    def of(cls, space: SharedSpace) -> TwoTowers:
        """Those of a model.

        Raises:
            NotHeld: it has others, or other columns than further views of images share them.
        """
        views = {column for column, owner in space.share.items() if owner == "image" and column.startswith("view")}
        read = [column for column in space.columns if column not in views]  # views are read in training alone
        if sorted(read) != ["image", "text"]:
            others = "where other libraries have one for images and one for texts"
            raise NotHeld(f"it has towers for {', '.join(read)}, {others}")
        heads = space.head("image"), space.head("text")
        return cls(space.tower("image"), space.tower("text"), *heads, space.logit_bias)


class NotHeld(InputError):
    """Why another library has no tower like one of ours, as it reads after "cannot hold this model exactly: "."""


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which timm and open_clip, which round down, find the hidden width again.

    Examples:
        >>> mlp_ratio(3072, 768), int(1664 * mlp_ratio(8192, 1664))
        (4.0, 8192)
    """
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def under(prefix: str, weights: Mapping[str, Tensor], ours: str) -> dict[str, Tensor]:
    """The weights below a prefix, moved below another."""
    return {ours + key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def assemble(
    name: str,
    towers: tuple[TowerWeights, TowerWeights],
    scale: Mapping[str, Tensor],
    *,
    embed_dim: int,
    tokenizer: dict[str, Any] | None,
    transform: dict[str, Any],
) -> Pretrained:
    """Image and text tower with their temperature.

    Args:
        name: of the source.
        towers: image and text.
        scale: `logit_scale` and, for models trained with the sigmoid loss, `logit_bias`, of any shape with one element.
        embed_dim: width of the shared space.
        tokenizer: mapping, or None if the user must give one.
        transform: settings that differ from the defaults.
    """
    image, text = towers
    temperature = {key: value.detach().float().reshape(1).cpu() for key, value in scale.items()}
    # At the start only: the learned values come with the weights.
    loss = {"name": "sigmoid"} if "logit_bias" in temperature else {"name": "softmax"}
    recipe = Recipe(
        {"image": TowerSpec(image.spec, image.head, transform), "text": TowerSpec(text.spec, text.head)},
        embed_dim,
        {"name": "pairs", "loss": loss},
        tokenizer,
    )
    weights = {
        key: value.detach().float().cpu() if value.is_floating_point() else value
        for key, value in {**image.weights, **text.weights}.items()
    }
    return Pretrained(name, recipe, {**weights, **temperature})
