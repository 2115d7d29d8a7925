"""`ClassObjective`: cross-entropy over the classes of labelled images; a subclass says what makes the logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.predictor import ImageInput, Predictor
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective
from lightning_clip.prompts.classifier import ClassNames
from lightning_clip.strategies import ClipDeepSpeedStrategy, ClipFSDP2Strategy
from lightning_clip.tasks.class_names import check_labels, check_split, names_in

__all__ = ["ClassObjective"]


class ClassObjective(Objective):
    """Learns the classes of labelled images by cross-entropy over class logits.

    What is learned stands in the model as `classes`, a module that `build_classes` makes; everything else is frozen unless
    `learns` says otherwise. Before the first step `start_classes` fills it, as a rule from the zero-shot classifier, for which
    the text tower is built; a step reads images and labels alone. Evaluation logs `val/classification/top1` and
    `val/classification/mean_per_class`.

    `clip_fsdp2` shards `classes` as a part of its own where `class_logits` reads what is learned in the forward of that module
    alone.

    Args:
        class_names: in the order of the labels; None takes those of the training source.
        templates: prompts of the zero-shot classifier: a set's name, one template or several.
        label_smoothing: share in [0, 1) of the target that is spread over all classes in training.

    Raises:
        InputError: no class names anywhere, images without labels, or a strategy that cannot split what is learned.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = "simple",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing {label_smoothing} must be in [0, 1): the true class gets the rest")
        self.class_names = None if class_names is None else list(class_names)
        self.templates = templates if isinstance(templates, str) else list(templates)
        self.label_smoothing = label_smoothing

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def build_classes(self, space: SharedSpace, num_classes: int) -> nn.Module:
        """What is learned, with values to be replaced by `start_classes`."""

    @abstractmethod
    def class_logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        """Unit features (B, D) -> logits (B, C)."""

    def start_classes(self, predictor: Predictor, data: Any | None) -> None:
        """Fills `predictor.model.classes` before the first step; the towers have their weights by now."""

    # -- use --------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The classes in the order of the labels.

        Raises:
            InputError: they are not known, or fewer than two.
        """
        if self.class_names is None or len(self.class_names) < 2:
            raise InputError(
                f"{type(self).__name__} has {len(self.class_names or [])} class names and its training data knows no others: "
                "give class_names, at least two in the order of the labels"
            )
        return self.class_names

    def scores(self, predictor: Predictor, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Logits (B, C) in evaluation mode, without gradients.

        Args:
            predictor: of the model.
            images: as for `Predictor.encode_image`.
            batch_size: images encoded at a time, at least 1.
        """
        features = predictor.encode_image(images, batch_size)  # (B, 3, H, W) -> (B, D)
        self.fill(predictor, None)
        with evaluating(predictor.model):
            return self.class_logits(predictor.model, features)  # -> (B, C)

    def fill(self, predictor: Predictor, data: Any | None) -> None:
        """Fills what is learned, once; a checkpoint that was loaded says that it is filled."""
        model: Any = predictor.model
        if not model.classes.started:
            with torch.no_grad():
                self.start_classes(predictor, data)
            model.classes.started.fill_(True)
            if isinstance(model, FSDPModule):
                model.reshard()  # a checkpoint may be read next, into the parts

    # -- the seam ---------------------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def builds(self) -> tuple[str, ...]:
        return ("image", "text")

    def learns(self) -> tuple[str, ...]:
        return ("classes.",)

    def inherited(self) -> Any | None:
        return None

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        if self.class_names is None:
            self.class_names = names_in(data, "train") or None
        _ = self.names

    def build(self, space: SharedSpace) -> None:
        classes = self.build_classes(space, len(self.names))
        classes.register_buffer("started", torch.tensor(False))
        space.classes = classes
        with torch.device("cpu"):  # also on ranks that build their model without memory: counts come with no broadcast
            self.accuracy = ZeroShotAccuracy(len(self.names))

    def check_strategy(self, strategy: Strategy, space: SharedSpace) -> None:
        if isinstance(strategy, ClipDeepSpeedStrategy):
            raise InputError(
                f"{type(self).__name__} fills what it learns when the run starts, which would not reach DeepSpeed's own copies "
                "of the weights: use strategy 'clip_fsdp2' or 'ddp'"
            )
        kind: Any = type(space.classes)
        if isinstance(strategy, ClipFSDP2Strategy) and kind.forward is nn.Module.forward:
            raise InputError(
                f"{type(self).__name__} reads what it learns elsewhere than in a forward of model.classes, where clip_fsdp2 "
                "would have it in parts: use strategy 'auto' or 'ddp'"
            )

    def start(self, predictor: Predictor, data: Any | None, split: str) -> None:
        for name in ("train", "val") if split == "train" else (split,):
            check_split(data, name, self.names)
        self.fill(predictor, data)

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        return {"logits": self.class_logits(space, output.features["image"])}  # (B, D) -> (B, C)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        check_labels(batch, self.names)
        smoothing = self.label_smoothing if self.training else 0.0
        logits: Tensor = output.rows["logits"].float()
        return {"loss": self.mean(cross_entropy(logits, batch.label, reduction="none", label_smoothing=smoothing))}

    def measure(self, output: ClipOutput, batch: PairBatch) -> None:
        self.accuracy.update(output.rows["logits"].float(), batch.label)

    def measured(self) -> Mapping[str, float]:
        values = self.accuracy.compute()
        self.accuracy.reset()
        return {f"classification/{name}": float(values[name]) for name in ("top1", "mean_per_class")}

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer | None:
        """Images -> scores (B, C): as learned, where these very classes are asked in this order; otherwise by words."""
        if [name if isinstance(name, str) else name[0] for name in class_names] != self.class_names:
            return super().scorer(predictor, class_names, templates)
        return lambda images: self.scores(predictor, images)
