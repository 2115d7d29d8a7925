"""`TrainedModel`: weights opened for use without Lightning, whose import takes longer than opening a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from lightning_clip.adapt import AdaptSettings
from lightning_clip.adapt.lora import has_parts
from lightning_clip.checkpoints.checking import CLASS_KEY, check_content
from lightning_clip.checkpoints.reading import content_of
from lightning_clip.checkpoints.trained_only import BASE_KEY
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform
from lightning_clip.model.build import tokenizer_of
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.recipe import Recipe
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective, build_objective
from lightning_clip.training.execution import ExecutionSettings
from lightning_clip.training.execution import prepare as apply_execution
from lightning_clip.weights.assembly import add_objective, loaded_model, with_towers_read
from lightning_clip.weights.opening import start_from
from lightning_clip.weights.own import check_stored
from lightning_clip.weights.source import Source

__all__ = ["TrainedModel", "open_checkpoint_plainly", "open_trained"]

_PLAIN = "lightning_clip.ClipModule"
_NOTHING = Recipe({}, None, None, None)  # type: ignore[arg-type]  # what a user gave who gave nothing


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode with all that is needed to use or export it: what `ClipModule` is to those who train.

    Args:
        model: towers, heads and temperature.
        recipe: what it was made of.
        objective: what it learned.
        tokenizer: of the text tower; None where no tower reads texts.
    """

    model: SharedSpace
    recipe: Recipe
    objective: Objective
    tokenizer: Tokenizer

    @cached_property
    def predictor(self) -> Predictor:
        """Encodes images and texts."""
        sees = "image" in self.model.columns
        transform = evaluation_transform(self.image_size, self.transform_settings) if sees else nn.Identity()
        return Predictor(self.model, self.tokenizer, transform, self.objective)

    @property
    def embed_dim(self) -> int:
        """Width D of the shared space."""
        return self.recipe.embed_dim

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        size: int = self.model.tower("image").image_size
        return size

    @property
    def transform_settings(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""
        return self.recipe.transform

    @property
    def training_settings(self) -> Any:
        """How it was trained, as far as exports ask: nothing was adapted."""
        return SimpleNamespace(adapt=AdaptSettings())

    @property
    def training_parts(self) -> frozenset[str]:
        """Names of parts of the model that only training needs."""
        return self.objective.training_parts

    def to_mapping(self) -> dict[str, Any]:
        """Arguments of `ClipModule` that build it again."""
        recipe = replace(self.recipe, objective=self.objective.to_mapping(), tokenizer=self.tokenizer)
        return recipe.to_mapping(self.model)

    def state_dict(self) -> dict[str, Tensor]:
        """All weights by name, those of the model under "model."."""
        return _together(self.model, self.objective).state_dict()


def open_trained(source: str | Path, *, allow_pickle: bool = False) -> TrainedModel:
    """Published weights, a folder or a file of weights, as `ClipModule.from_pretrained` opens them.

    Args:
        source: see `Source`.
        allow_pickle: read files that may run code; only if you trust the author.

    Raises:
        InputError: nothing of that name, no network, a broken file, or weights that do not fit.
    """
    return _built(_NOTHING, Source(str(source), allow_pickle=allow_pickle), ExecutionSettings())


def open_checkpoint_plainly(path: Path, *, allow_pickle: bool = False) -> TrainedModel | None:
    """A checkpoint that a plain `ClipModule` wrote; None for all others, which need the class that wrote them.

    Those are checkpoints of subclasses, of adapted models, of models with live objects, and broken ones: `load_from_checkpoint`
    says what is wrong with them.

    Args:
        path: of a .ckpt.
        allow_pickle: read what may run code; only if you trust the author.
    """
    try:
        content = content_of(path, weights_only=not allow_pickle)
        if not _is_plain(content):
            return None
        check_content(content, str(path))
        check_stored(str(path), content)  # before there is memory for what the settings ask for
        return _of_content(content)
    except Exception:
        return None


def _is_plain(content: Any) -> bool:
    """Whether all that a checkpoint's model is made of stands in its recipe."""
    if not isinstance(content, Mapping) or content.get(CLASS_KEY) != _PLAIN or BASE_KEY in content:
        return False
    settings = content["hyper_parameters"]
    adapt = AdaptSettings.of((settings.get("training") or {}).get("adapt"))
    return settings.get("pretrained") is None and adapt == AdaptSettings() and not has_parts(content["state_dict"])


def _of_content(content: Mapping[str, Any]) -> TrainedModel:
    settings = content["hyper_parameters"]
    execution = ExecutionSettings.of((settings.get("training") or {}).get("execution"))
    found = _built(Recipe.from_mapping(settings), None, execution)
    _together(found.model, found.objective).load_state_dict(content["state_dict"])
    return found


def _built(given: Recipe, pretrained: Source | None, execution: ExecutionSettings) -> TrainedModel:
    """The model in evaluation mode, by the steps that `ClipModule` takes."""
    recipe, start = start_from(pretrained, given)
    objective = build_objective(recipe.objective)
    recipe = with_towers_read(recipe, objective, objective.reads(), "ClipModule")
    tokenizer = tokenizer_of(recipe, "text" in objective.predicts())
    objective.prepare(None, tokenizer)
    model = loaded_model(recipe, tokenizer, objective, start)
    add_objective(model, objective, start)
    apply_execution(model, execution)
    return TrainedModel(model.eval(), recipe, objective.eval(), tokenizer)


def _together(model: SharedSpace, objective: Objective) -> nn.Module:
    """One module with the names that weights have in a `ClipModule`."""
    return nn.ModuleDict({"objective": objective, "model": model})
