"""Learning classes by cross-entropy: labelled images arrive, class logits leave; a subclass says what they are made of."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from PIL import Image
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy
from typing_extensions import Self

from lightning_clip.adapt.adaptation import NEVER_LEARNED
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, Pair, PairBatch
from lightning_clip.data import ClipDataModule
from lightning_clip.data.captions import random_caption
from lightning_clip.data.sources import PairSource
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.model.predictor import evaluating
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.strategies import ClipDeepSpeedStrategy, ClipFSDP2Strategy

__all__ = ["SupervisedModule"]


class SupervisedModule(ClipModule):
    """A `ClipModule` that learns the classes of labelled images: cross-entropy over class logits.

    What is learned stands in `model.classes`, a module that `build_classes` makes; both towers rest unless `rest` says
    otherwise. Before the first step `start_classes` fills it, as a rule from the zero-shot classifier. Validation logs
    `val/classification/top1` and `mean_per_class`. With `class_names` left out the training source is asked.

    `clip_fsdp2` shards `model.classes` as a part of its own where `class_logits` reads what is learned in the forward of that
    module alone.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        class_names: in the order of the labels; None takes those of the training source.
        templates: prompts of the zero-shot classifier: a set's name, one template or several.
        label_smoothing: share in [0, 1) of the target that is spread over all classes.
        **arguments: of `ClipModule`.

    Raises:
        InputError: no class names anywhere, images without labels, or a strategy that cannot split what is learned.
    """

    reads_texts = True  # whether the loss depends on the text tower in every step

    def __init__(
        self,
        *towers: Any,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        label_smoothing: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__(*towers, **arguments)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing {label_smoothing} must be in [0, 1): the true class gets the rest")
        self.class_names = None if class_names is None else list(class_names)
        self.templates, self.label_smoothing = templates, label_smoothing

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def build_classes(self, num_classes: int) -> nn.Module:
        """What is learned, with values to be replaced by `start_classes`."""

    @abstractmethod
    def class_logits(self, image_features: Tensor) -> Tensor:
        """Unit features (B, D) -> logits (B, C)."""

    def start_classes(self) -> None:
        """Fills `model.classes` before the first step; the towers have their weights by now."""

    def rest(self) -> None:
        """Says which parameters do not learn; here all of both towers and the temperature."""
        self.model.requires_grad_(False)

    # -- use --------------------------------------------------------------------------------------------------------

    def score_classes(self, images: Tensor | Image.Image | Sequence[Image.Image], batch_size: int = 256) -> Tensor:
        """Logits (B, C) in evaluation mode, without gradients; images as for `encode_image`."""
        features = self.encode_image(images, batch_size)
        self._started()
        with evaluating(self.model):
            return self.class_logits(features)

    # -- training ---------------------------------------------------------------------------------------------------

    def encode(self, batch: PairBatch) -> ClipOutput:
        """Image features alone; without gradient where the image tower rests."""
        learns = any(parameter.requires_grad for parameter in self._image_parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return ClipOutput({"image": self.model.encode("image", batch.image)}, self.model.scale())

    def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        assert output.image_features is not None
        self._check_labels(batch)
        logits = self.class_logits(output.image_features)
        return {"loss": cross_entropy(logits.float(), batch.label, label_smoothing=self.label_smoothing)}

    def complete_model(self) -> None:
        self.rest()
        text = self.model.tower("text")
        grown = self.tokenizer.vocab_size > self._first_tokenizer.vocab_size
        if grown and not any(parameter.requires_grad for parameter in text.parameters()):
            raise InputError(NEVER_LEARNED)
        if self.training_settings.adapt.text.lora is not None and not self.reads_texts:
            raise InputError(
                f"adapt.text.lora would never be learned: {type(self).__name__} reads words once, before the first step. Leave "
                "it out, or learn with FlypModule or CoopModule"
            )
        classes = self.build_classes(len(self._names()))
        if self._trainer is not None:
            self._check_strategy(self.trainer.strategy, classes)
        classes.register_buffer("started", torch.tensor(False))
        self.model.classes = classes
        with torch.device("cpu"):  # also on ranks that build their model without memory: counts come with no broadcast
            self.accuracy = ZeroShotAccuracy(len(self._names()))

    def configure_model(self) -> None:
        if not self.is_built:
            self._names()  # what is wrong is said before the towers are built
        super().configure_model()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Towers that rest stay in evaluation mode, so that their batch statistics and dropout rest too."""
        super().train(mode)
        for part in self.model.children() if self.is_built else ():
            own = list(part.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                part.eval()
        return self

    def read_data(self, data: ClipDataModule) -> None:
        if self.class_names is None:
            self.class_names = _names_of(data.source("train"))

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        """One of the pair's captions, or no text: images with a label need none."""
        return random_caption(pair, rng) if pair.captions else ""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for split in ("train", "val"):
            self._check_classes(split)
        self._started()

    def on_validation_start(self) -> None:
        self._check_classes("val")
        self._started()  # before a strategy gathers weights for evaluation: what is written then would be lost

    def on_test_start(self) -> None:
        self._check_classes("test")
        self._started()

    def validation_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        return self._classified(batch, "val")

    def test_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        return self._classified(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test")

    def predict_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:
        return ClipModule.encode(self, batch)

    def to_mapping(self) -> dict[str, Any]:
        own = {"class_names": self._names(), "templates": self.templates, "label_smoothing": self.label_smoothing}
        return {**super().to_mapping(), **own}

    # -- details ----------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        if self.class_names is None:
            self.class_names = _names_of(self._source("train"))
        if len(self.class_names) < 2:
            raise InputError(
                f"{type(self).__name__} has {len(self.class_names)} class names and its training data knows no others: "
                "give class_names, at least two in the order of the labels"
            )
        return self.class_names

    def _source(self, split: str) -> PairSource | None:
        """The opened source of a split, where there is one."""
        data: Any = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        known = hasattr(data, "source") and getattr(data, "_specs", {"train": "of the user's own class"}).get(split) is not None
        return data.source(split) if known else None

    def _check_classes(self, split: str) -> None:
        """Refuses data whose labels stand for other classes than those that are learned, as far as the data knows them."""
        found, trained = (_names_of(self._source(name)) for name in (split, "train"))
        if split != "train" and trained:
            known, fits = trained, found == trained
        else:  # other words for the classes are the user's right; another number, or another order of the same words, is not
            known = self._names()
            fits = len(found) == len(known) and (found == known or sorted(found) != sorted(known))
        if found and not fits:
            raise InputError(
                f"the labels of the {split} data stand for {_listed(found)}, but {type(self).__name__} learns "
                f"{_listed(known)}: give all splits the same classes, and class_names in the order of the labels, or leave "
                "them out"
            )

    def _started(self) -> None:
        """Fills what is learned, once; a checkpoint that was loaded says that it is filled."""
        flag: Any = self.model.classes.started  # type: ignore[union-attr]
        if not flag:
            with torch.no_grad():
                self.start_classes()
            flag.fill_(True)
            if isinstance(self.model, FSDPModule):
                self.model.reshard()  # a checkpoint may be read next, into the parts

    def _check_strategy(self, strategy: Strategy, classes: nn.Module) -> None:
        """Refuses strategies under which what is learned would not begin or be read as it should."""
        if isinstance(strategy, ClipDeepSpeedStrategy):
            raise InputError(
                f"{type(self).__name__} fills what it learns when the run starts, which would not reach DeepSpeed's own copies "
                "of the weights: use strategy 'clip_fsdp2' or 'ddp'"
            )
        if isinstance(strategy, ClipFSDP2Strategy) and type(classes).forward is nn.Module.forward:
            raise InputError(
                f"{type(self).__name__} reads what it learns elsewhere than in a forward of model.classes, where clip_fsdp2 "
                "would have it in parts: use strategy 'auto' or 'ddp'"
            )

    def _image_parameters(self) -> list[nn.Parameter]:
        return [*self.model.tower("image").parameters(), *self.model.head("image").parameters()]

    def _check_labels(self, batch: PairBatch) -> None:
        if batch.label.device.type == "cpu":  # elsewhere it would wait for the device
            wrong = ((batch.label < 0) | (batch.label >= len(self._names()))).nonzero()
            if len(wrong):
                row = int(wrong[0])
                raise self._no_class(batch.keys[row], int(batch.label[row]))

    def _no_class(self, key: str, label: int) -> InputError:
        """That the label of an image is of none of the classes."""
        return InputError(
            f"image {key!r} has {'no label' if label < 0 else f'label {label}'}, but {type(self).__name__} learns "
            f"{len(self._names())} classes: give a table's label_column, one folder per class, or shards with .cls members"
        )

    def _classified(self, batch: PairBatch, stage: str) -> ClipOutput:
        output = self.encode(batch)
        assert output.image_features is not None
        self._started()
        self._check_labels(batch)
        logits = self.class_logits(output.image_features)
        self.accuracy.update(logits.float(), batch.label)
        self.log(f"{stage}/loss", cross_entropy(logits.float(), batch.label), sync_dist=True, batch_size=len(batch.image))
        return output

    def _log_accuracy(self, stage: str) -> None:
        values = self.accuracy.compute()
        for name in ("top1", "mean_per_class"):
            self.log(f"{stage}/classification/{name}", float(values[name]), sync_dist=True)
        self.accuracy.reset()


def _names_of(source: PairSource | None) -> list[str]:
    return list(getattr(source, "class_names", []))


def _listed(names: Sequence[str]) -> str:
    """How many classes, and the first of them."""
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
