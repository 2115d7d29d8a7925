"""A module's model: built on first use, or by a Trainer where its strategy wants it, and used through a `Predictor`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from lightning_clip.adapt import Adaptation, AdaptSettings, grow_tower, grown_tokenizer, known_base
from lightning_clip.data.feature_store import FeatureStore
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.model.build import tokenizer_of
from lightning_clip.model.predictor import ImageInput, Predictor, TextInput
from lightning_clip.model.presets import preset
from lightning_clip.model.recipe import Recipe, TowerSpec
from lightning_clip.model.space import SharedSpace
from lightning_clip.module.learning import check_adapters, check_finite, collators, prepare, still
from lightning_clip.module.on_ranks import OnRanks
from lightning_clip.module.running import check_trainer, take_up
from lightning_clip.module.settings import recorded
from lightning_clip.objectives import Objective, build_objective
from lightning_clip.training.execution import prepare as apply_execution
from lightning_clip.training.optim import undecayed_names
from lightning_clip.training.windows import Window
from lightning_clip.weights.assembly import add_objective, loaded_model, with_towers_read
from lightning_clip.weights.opening import start_from
from lightning_clip.weights.source import Pretrained

__all__ = ["BuiltOnUse"]

_BUILDING = threading.RLock()  # a second thread waits


class BuiltOnUse(OnRanks):
    """A LightningModule whose `model` comes from a `Recipe`.

    Attributes:
        recipe: what the model is made of.
        objective: what is learned.
        tokenizer: of the text tower; None where no tower reads texts.
        undecayed: names of the model's parameters that weight decay leaves alone.
        has_weights: whether weights were loaded or trained; else they are random.
    """

    has_weights: bool
    recipe: Recipe
    objective: Objective
    tokenizer: Tokenizer
    undecayed: set[str]
    _adaptation: Adaptation
    _window: Window

    def _begin(self, given: Recipe, pretrained: Any) -> None:
        """Completes what the constructor was given; builds no tower."""
        own = {f"{column}_encoder": given.towers.get(column, TowerSpec()).tower for column in ("image", "text")}
        self._given = {"pretrained": pretrained, **own}
        self._own_columns = {column for column, spec in given.towers.items() if spec.tower is not None}
        recipe, self._start = start_from(pretrained, given)
        self.objective = build_objective(recipe.objective)
        self.recipe = with_towers_read(recipe, self.objective, self.reads(), type(self).__name__)
        self.training_settings.execution.check_towers([c for c in self.recipe.towers if c not in self.recipe.share])
        self._first_tokenizer = tokenizer_of(self.recipe, "text" in self.objective.predicts())
        self.tokenizer = self._first_tokenizer
        if self.tokenizer is not None:
            self.tokenizer = grown_tokenizer(self._first_tokenizer, self.training_settings.adapt.text)
        check_finite(self.objective, self.training_settings.execution.non_finite == "stop")
        self.undecayed, self.has_weights = set(), pretrained is not None
        self._building = self._prepared = False
        self.save_hyperparameters(recorded(self.recipe, self.objective, self.training_settings), ignore=[])

    @classmethod
    def from_preset(cls, name: str, **arguments: Any) -> Self:
        """One of the paper's models ("ViT-B/32", "ViT-L/14@336", "RN50", ...) with random weights.

        Args:
            name: see `lightning_clip.model.presets.PRESETS`.
            **arguments: any other argument of the constructor.
        """
        return cls(**{**preset(name), **arguments})

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        image_size: int | None = None,
        context_length: int | None = None,
        allow_pickle: bool = False,
        **arguments: Any,
    ) -> Self:
        """Published weights, or weights of your own, in evaluation mode, with their tokenizer and preprocessing.

        Args:
            source: "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/FILE", "hf:openai/clip-vit-base-patch32", a folder that
                open_clip, transformers or `lightning-clip export` wrote, or a .ckpt of ours.
            image_size: another side in pixels; position embeddings are resized.
            context_length: another number of tokens, likewise.
            allow_pickle: read a file that may run code; only if you trust its author.
            **arguments: any other argument of the constructor, which wins over what the source brings.

        Raises:
            InputError: nothing of that name, no network, a broken file, or weights that do not fit.
        """
        sizes = {"image_size": image_size, "context_length": context_length, "allow_pickle": allow_pickle}
        module = cls(pretrained={"source": str(source), **sizes}, **arguments)
        module.configure_model()
        return module.eval()

    # -- what it is made of -----------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        """Columns of a batch that are encoded: those of the objective. Subclasses that use further towers add theirs."""
        return self.objective.reads()

    def to_mapping(self) -> dict[str, Any]:
        """Arguments that build this module again."""
        raise NotImplementedError

    def complete_model(self) -> None:
        """Adds parts of a subclass's own to `self.model` and freezes others, before locks and strategies see it."""

    @property
    def embed_dim(self) -> int:
        """Width D of the shared space."""
        return self.recipe.embed_dim

    @property
    def transform_settings(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""
        return self.recipe.transform

    @property
    def micro_batch_size(self) -> int | None:
        """Pairs encoded at a time; None encodes the batch at once."""
        return self.training_settings.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        self.training_settings = replace(self.training_settings, micro_batch_size=value)

    @property
    def is_built(self) -> bool:
        """Whether the towers are there."""
        return "model" in self._modules

    @property
    def model(self) -> SharedSpace:
        """Towers, heads and temperature; built now if they are not."""
        if not self.is_built or self._building:
            self.configure_model()
        built: Any = self._modules["model"]
        return built  # type: ignore[no-any-return]

    @property
    def adaptation(self) -> Adaptation:
        """What of the model is trained, and when."""
        if not self.is_built:
            self.configure_model()
        return self._adaptation

    @property
    def training_parts(self) -> frozenset[str]:
        """Names of parts of the model that only training needs; exports and mixtures omit them."""
        return self.objective.training_parts

    def columns(self) -> Mapping[str, Callable[[list[Any]], Any] | None]:
        """Columns that a batch should have, with what puts raw values together; None for images, texts and views.

        Prediction encodes all columns that have a tower, a training step and an evaluation those that are read.
        """
        every = self._trainer is None or self.trainer.predicting
        further = self.objective.predicts() if every else (*self.objective.predicts(), *self.objective.takes())
        found = collators(self.model, (*(self.model.columns if every else self.reads()), *further))
        predicting = self._trainer is not None and self.trainer.predicting
        return found if predicting else {**found, **self.objective.targets()}

    def configure_model(self) -> None:
        """Builds the towers, once, where the strategy wants them."""
        if self._trainer is not None:
            check_trainer(self.trainer)
        with _BUILDING:
            if self._building:  # by this very thread
                return
            if not self.is_built:
                self._building = True
                try:
                    self._build()
                finally:
                    self._building = False
        if self._trainer is not None:
            take_up(self)

    def _build(self) -> None:
        if not self._prepared:
            prepare(self)
        model = loaded_model(self.recipe, self._first_tokenizer, self.objective, self._start)
        base = known_base(self._given, self._start.weights if self._start else ())
        start, self._start = self._start, None  # a checkpoint holds all of it from now on
        if self.tokenizer is not self._first_tokenizer:
            grow_tower(model.tower("text"), self._first_tokenizer, self.tokenizer, self.training_settings.adapt)
        self._modules["model"] = model  # add_module() would ask the property of this name
        add_objective(model, self.objective, start)
        grown = self.tokenizer is not self._first_tokenizer
        check_adapters(model, self.objective, self.training_settings.adapt, grown)
        self.complete_model()
        strategy = self.trainer.strategy if self._trainer else None
        self._adaptation = Adaptation(model, self.training_settings.adapt, strategy, base)
        apply_execution(model, self.training_settings.execution)
        self.undecayed = undecayed_names(model)
        self.train(self.training)

    def forget_adaptation(self) -> None:
        """From now on everything is trained alike and checkpoints are whole; the weights stay as they are."""
        adaptation = self.adaptation
        self.training_settings = replace(self.training_settings, adapt=AdaptSettings())
        self._adaptation = adaptation.forget(self.model)
        self.undecayed = undecayed_names(self.model)

    def feature_store(self) -> FeatureStore | None:
        """Where training keeps features of a locked image tower, asked by the data once the weights are final."""
        return self.adaptation.open_cache(self)

    # -- torch asks for what the module holds; not `children`, which a Trainer asks before it is known here -------------

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but what is locked stays in evaluation mode."""
        super().train(mode)
        if mode and self.is_built and hasattr(self, "_adaptation"):
            still(self.model, self.objective)
            self._adaptation.locks.still(self.model)
        return self

    def named_modules(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        self._build_alone()
        yield from super().named_modules(*arguments, **options)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._build_alone()
        return super().state_dict(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        self._build_alone()
        self.has_weights = True
        return super().load_state_dict(*arguments, **options)

    def _apply(self, *arguments: Any, **options: Any) -> Any:  # to, cuda, half, ...
        self._build_alone()
        return super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        self._build_alone()
        return super().__repr__()

    def _build_alone(self) -> None:
        """Builds the towers unless a Trainer will do it, under its strategy, or they are being built."""
        if "recipe" in self.__dict__ and self._trainer is None and not self.is_built:
            self.configure_model()

    # -- use --------------------------------------------------------------------------------------------------------

    @property
    def predictor(self) -> Predictor:
        """The trained model with its tokenizer and preprocessing, for evaluation and use."""
        sees = "image" in self.model.columns
        transform = self.image_transform(train=False) if sees else nn.Identity()
        return Predictor(self.model, self.tokenizer, transform, self.objective)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        size: int = self.model.tower("image").image_size
        return size

    def image_transform(self, train: bool) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S)."""
        raise NotImplementedError

    def encode_image(self, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in evaluation mode, without gradients; see `Predictor.encode_image`."""
        return self.predictor.encode_image(images, batch_size)

    def encode_text(self, texts: TextInput, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in evaluation mode, without gradients; see `Predictor.encode_text`."""
        return self.predictor.encode_text(texts, batch_size)

    def zero_shot_classifier(self, class_names: Sequence[str], templates: str | Sequence[str] = "simple") -> Tensor:
        """Class embeddings (D, num_classes), the mean over templates: image features times it are cosine similarities."""
        return self.predictor.zero_shot_classifier(class_names, templates)

    _start: Pretrained | None
    _given: dict[str, Any]
    _own_columns: set[str]
    _building: bool
    _prepared: bool
