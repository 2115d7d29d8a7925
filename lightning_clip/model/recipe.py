"""`Recipe`: all that a model is made of, in names and plain settings; what checkpoints hold and published weights bring."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.registry import LIVE
from lightning_clip.core.settings import in_range, mapping
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.encoders import image_encoders, text_encoders
from lightning_clip.encoders.base import Tower
from lightning_clip.encoders.base import towers as tower_registry

if TYPE_CHECKING:
    from lightning_clip.model.space import SharedSpace

__all__ = ["DEFAULT_EMBED_DIM", "NO_TOWER", "Recipe", "TowerSpec", "plain_settings", "plain_spec", "recipe_of"]

DEFAULT_EMBED_DIM = 512
_DEFAULT_TOWERS = {"image": "vit_base_patch32_clip_224", "text": "clip_text_base"}
_OWN = ("tower", "projection", "transform", "share")
_VIEW = re.compile(r"view\d+\Z")
NO_TOWER = "none"


@dataclass(frozen=True)
class TowerSpec:
    """One column's tower, not built yet.

    Args:
        tower: a name, a mapping {"name": ..., settings}, or a `Tower`; None where it shares another column's.
        projection: its head into the shared space: "linear", "mlp", "none" or a mapping.
        transform: how pixels reach an image tower; None takes the defaults.
        share: the column whose tower and head it uses.
    """

    tower: Any = None
    projection: Any = None
    transform: Any = None
    share: str | None = None

    @classmethod
    def of(cls, value: Any, column: str) -> TowerSpec:
        """From a name, a `Tower`, or a mapping in which settings of the tower stand beside `projection`, `transform`, `share`.

        Raises:
            InputError: settings without a name of the tower that they belong to.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str | Tower):
            return cls(tower=value)
        settings = mapping(value, f"towers.{column}")
        own = {key: settings.pop(key) for key in _OWN if key in settings}
        if settings and "tower" not in own:
            if "name" not in settings and LIVE not in settings:
                raise InputError(
                    f"towers.{column} has settings {sorted(settings)} but no 'name' of the tower: add it, or give only "
                    f"{', '.join(_OWN[1:])}"
                )
            own["tower"] = settings
        elif settings:
            raise InputError(f"towers.{column} has no setting {sorted(settings)[0]!r}: {nearest(sorted(settings)[0], _OWN)}")
        return cls(**own)

    @property
    def is_given(self) -> bool:
        """Whether it says which tower reads the column."""
        return self.share is not None or self.tower not in (None, NO_TOWER)

    def over(self, other: TowerSpec) -> TowerSpec:
        """This spec, completed by another where it says nothing; transforms are merged setting by setting."""
        merged = {key: getattr(other, key) if getattr(self, key) is None else getattr(self, key) for key in _OWN}
        if isinstance(self.transform, Mapping) and other.transform is not None:
            base = other.transform if isinstance(other.transform, Mapping) else plain_settings(other.transform)
            merged["transform"] = {**base, **self.transform}
        return TowerSpec(**merged)

    def tower_mapping(self, built: Any = None) -> dict[str, Any]:
        """The tower alone as plain settings; `built` says more of it than its name, if it can."""
        described = (built.to_mapping() if built is not None else None) or plain_spec(self.tower)
        return {"name": described} if isinstance(described, str) else dict(described or {})

    def around(self) -> dict[str, Any]:
        """Plain settings of what stands around the tower: its head and transform, or whose tower it uses."""
        if self.share is not None:
            return {"share": self.share}
        transform = {} if self.transform is None else {"transform": plain_settings(self.transform)}
        return {"projection": self.projection, **transform}


@dataclass(frozen=True)
class Recipe:
    """All that builds a model.

    Args:
        towers: column -> its tower.
        embed_dim: width D of the shared space.
        objective: what is learned: a name, a mapping, a list of such, or an object; it decides how the temperature begins.
        tokenizer: a name, a mapping or a `Tokenizer`; None takes that of the text tower.
    """

    towers: Mapping[str, TowerSpec]
    embed_dim: int = DEFAULT_EMBED_DIM
    objective: Any = "pairs"
    tokenizer: Any = None

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> Recipe:
        """From plain settings, as `to_mapping` gives them; others than a recipe's are passed over."""
        image, text = value.get("image_encoder"), value.get("text_encoder")
        return recipe_of(image, text, value["towers"], value["embed_dim"], value["objective"], value["tokenizer"])

    def to_mapping(self, space: SharedSpace | None = None) -> dict[str, Any]:
        """Arguments of `ClipModule` in names and plain settings; live towers are noted by class.

        Args:
            space: the model that was built of it, whose towers may say more of themselves than their names.
        """
        # As arguments of their own: a subclass may have defaults for these.
        encoders: dict[str, Any] = {f"{column}_encoder": None for column in _DEFAULT_TOWERS}
        towers: dict[str, Any] = {}
        for column, spec in self.towers.items():
            built = None if space is None or spec.tower is None else space.tower(column)
            if f"{column}_encoder" in encoders:
                encoders[f"{column}_encoder"] = spec.tower_mapping(built) or None
                towers[column] = spec.around()
            else:
                towers[column] = {**spec.tower_mapping(built), **spec.around()}
        tokenizer = self.tokenizer.to_mapping() if isinstance(self.tokenizer, Tokenizer) else self.tokenizer
        return {
            **encoders,
            "towers": towers,
            "embed_dim": self.embed_dim,
            "objective": self.objective,
            "tokenizer": tokenizer,
        }

    @property
    def share(self) -> dict[str, str]:
        """Columns that use another column's tower."""
        return {column: spec.share for column, spec in self.towers.items() if spec.share is not None}

    @property
    def transform(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""
        spec = self.towers.get("image")
        return ImageTransformSettings.of(None if spec is None else spec.transform)

    def reading(self, readers: Mapping[str, str]) -> Recipe:
        """With the towers of these columns alone: default ones where none is named, none that nobody reads.

        Args:
            readers: columns that are read -> who reads them, for the error.

        Raises:
            InputError: a column without a tower.
        """
        wanted: dict[str, TowerSpec] = {}
        for column, reader in readers.items():
            spec = _with_default(column, self.towers.get(column, TowerSpec()))
            owner = spec.share or column
            for name, own in ((column, spec), (owner, _with_default(owner, self.towers.get(owner, TowerSpec())))):
                if not own.is_given:
                    known = [other for other, given in self.towers.items() if given.is_given]
                    raise InputError(
                        f"{reader} reads column {column!r}, but no tower was built for it: give "
                        f"towers: {{{name}: NAME}} (there are towers for {', '.join(known) or 'no other column'})"
                    )
                if own.share is None and own.projection is None:
                    own = replace(own, projection="linear")
                wanted[name] = own
        order = sorted(wanted, key=lambda column: {"image": 0, "text": 1}.get(column, 2))
        return replace(self, towers={column: wanted[column] for column in order})


def _with_default(column: str, spec: TowerSpec) -> TowerSpec:
    """The usual tower of images and of texts, and that of images for further views, where none is named."""
    if spec.tower is None and spec.share is None:
        if column in _DEFAULT_TOWERS:
            return replace(spec, tower=_DEFAULT_TOWERS[column])
        if _VIEW.match(column):
            return replace(spec, share="image")
    return spec


def recipe_of(
    image_encoder: Any, text_encoder: Any, towers: Mapping[str, Any] | None, embed_dim: Any, objective: Any, tokenizer: Any
) -> Recipe:
    """What a user gave, nothing completed yet: `image_encoder` and `text_encoder` are the towers of "image" and "text".

    Raises:
        InputError: `towers` that is no mapping, two towers for one column, or an embed_dim below 1.
    """
    if embed_dim is not None:
        in_range("embed_dim", embed_dim, 1, whole=True)
    given = {column: TowerSpec.of(spec, column) for column, spec in mapping(towers, "towers").items()}
    for column, encoder in (("image", image_encoder), ("text", text_encoder)):
        if encoder is None:
            continue
        if column in given and given[column].is_given:
            raise InputError(f"{column}_encoder and towers.{column} both name a tower for column {column!r}: give one of them")
        given[column] = replace(given.get(column, TowerSpec()), tower=encoder)
    return Recipe(given, embed_dim, objective, tokenizer)


def plain_spec(spec: Any) -> Any:
    """A name or mapping as it is; an instance by its class, to be passed again."""
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, str) or spec is None:
        return spec
    for registry in (image_encoders, text_encoders, tower_registry):
        if "name" in (found := registry.describe(spec)):
            return found
    return found


def plain_settings(settings: Any) -> dict[str, Any]:
    """A settings object as a mapping of plain values."""
    given = settings if isinstance(settings, Mapping) else vars(settings)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
