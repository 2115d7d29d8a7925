"""`ClipModule`: the LightningModule over towers, an objective and a tokenizer."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import Self

from lightning_clip.core.types import ClipOutput, Pair, PairBatch
from lightning_clip.data import ClipDataModule
from lightning_clip.data.captions import random_caption
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import evaluation_transform, training_transform
from lightning_clip.encoders import ImageEncoder, TextEncoder
from lightning_clip.losses import ContrastiveLoss
from lightning_clip.model.recipe import recipe_of
from lightning_clip.module.building import BuiltOnUse
from lightning_clip.module.checkpointing import load_module, on_load, on_save, stored_arguments
from lightning_clip.module.evaluated import LossSums
from lightning_clip.module.learning import (
    before_step,
    begin_steps,
    empty_output,
    encode_columns,
    end_validation,
    evaluate_batch,
    log_measured,
    log_progress,
    prepare,
    refresh,
    start,
)
from lightning_clip.module.loaders import adopt_loaders, forwarded
from lightning_clip.module.optimizing import configure
from lightning_clip.module.running import log_losses, over_ranks
from lightning_clip.module.settings import TrainingSettings
from lightning_clip.objectives import Objective
from lightning_clip.training.averaged import use_averaged
from lightning_clip.training.guard import ChanceWatch, FiniteGuard, check_even
from lightning_clip.training.micro_batches import encode_in_slices
from lightning_clip.training.phases import Phases
from lightning_clip.training.resuming import begin_next_epoch
from lightning_clip.training.seeding import seed_batch
from lightning_clip.training.throughput import Throughput
from lightning_clip.training.windows import Window

__all__ = ["ClipModule"]


class ClipModule(BuiltOnUse):
    """Towers that learn one shared space, as a LightningModule.

    Subclasses change a domain's particulars in five hooks and nothing else: `encode`, `compute_loss`, `image_transform`,
    `choose_caption` and `read_data`. `lightning_clip.variants.convirt` is a worked example. The towers are built when they
    are first asked for, by a Trainer where its strategy wants them.

    Args:
        image_encoder: a registered or timm name, a mapping {"name": ..., settings}, an `ImageEncoder`, or "none"; None takes
            that of `pretrained`, or "vit_base_patch32_clip_224" if the objective reads images.
        text_encoder: "clip_text_small|base|large|huge", "hf:NAME_OR_FOLDER", a mapping, a `TextEncoder`, or "none"; None
            takes that of `pretrained`, or "clip_text_base" if the objective reads texts.
        towers: column -> its tower, for columns beside "image" and "text" ({"gps": "coordinates"}); and for any column its
            head and transform: {"image": {"projection": "mlp", "transform": {"flip": 0.5}}}, see `TowerSpec`.
        pretrained: published weights or a checkpoint to start from, see `from_pretrained`: "open_clip:NAME/TAG", "hf:NAME", a
            folder or a file, or a mapping {"source": ..., "image_size": ..., "context_length": ..., "allow_pickle": ...}.
            They bring towers, heads, objective, tokenizer and transform; a tower that is given beside them starts anew.
        embed_dim: width D of the shared space; None takes that of `pretrained`, or 512.
        objective: what is learned: "pairs", a loss or its name ("softmax", "sigmoid") for pairs with that loss, a mapping, an
            `Objective`, or a list of these with weights; None takes that of `pretrained`, or "pairs".
        tokenizer: "clip", "hf:NAME_OR_FOLDER", a path written by `lightning-clip tokenizer train`, or a `Tokenizer`;
            None takes the one of an `hf:` text encoder, otherwise CLIP's.
        training: optimizer, micro-batches, execution and what is adapted, see `TrainingSettings`.

    Raises:
        InputError: an unknown name or setting, or parts that do not fit together.

    Examples:
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> module.zero_shot_classifier(["cat", "dog"], ["a photo of a {}."]).shape
        torch.Size([16, 2])
    """

    def __init__(
        self,
        image_encoder: str | dict[str, Any] | ImageEncoder | None = None,
        text_encoder: str | dict[str, Any] | TextEncoder | None = None,
        *,
        towers: dict[str, Any] | None = None,
        pretrained: str | dict[str, Any] | None = None,
        embed_dim: int | None = None,
        objective: str | dict[str, Any] | list[Any] | Objective | ContrastiveLoss | None = None,
        tokenizer: str | dict[str, Any] | Tokenizer | None = None,
        training: dict[str, Any] | TrainingSettings | None = None,
    ) -> None:
        super().__init__()
        self.training_settings = TrainingSettings.of(training)
        given = recipe_of(image_encoder, text_encoder, towers, embed_dim, objective, tokenizer)
        self._begin(given, pretrained)
        self._guard, self._skip_step = FiniteGuard(self.training_settings.execution.non_finite), False
        self.chance, self.losses = ChanceWatch(), LossSums()
        self._throughput, self._window, self._phases = Throughput(), Window(), Phases(self.training_settings.phases)

    # -- hooks a subclass may override ------------------------------------------------------------------------------

    def encode(self, batch: PairBatch) -> ClipOutput:
        """Features of a batch, or of a slice of one; what `compute_loss` receives."""
        return encode_columns(self, batch, self.reads())

    def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        """The key "loss" () is minimised; other keys are logged beside it."""
        parts: dict[str, Tensor] = self.objective(output, batch)
        return parts

    def image_transform(self, train: bool) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S), or a tuple of such: further ones are columns "view2", "view3", ...

        It runs in the loader's workers and draws from torch's generator.
        """
        make = training_transform if train else evaluation_transform
        return make(self.image_size, self.transform_settings)

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        """The text of a pair for this visit; static, so that workers need not receive the model."""
        return random_caption(pair, rng)

    def read_data(self, data: ClipDataModule) -> None:
        """Takes from the data what the model is made of, before the towers are built; here what the objective takes."""
        self.objective.prepare(data, self.tokenizer)

    def forward(self, *inputs: Any, **columns: Any) -> ClipOutput:
        """Features of a `PairBatch`, of (images, texts), or of what `SharedSpace.forward` takes, with gradient."""
        return forwarded(self, inputs, columns)

    def encoded_rows(self, batch: PairBatch) -> ClipOutput:
        """`encode`, and what the objective computes for each row; token features end here."""
        output = self.encode(batch)
        rows = self.objective.rows(self.model, output, batch)
        return output._replace(rows={**output.rows, **rows}, tokens={})

    def encode_batch(self, batch: PairBatch) -> ClipOutput:
        """Features and rows of a whole batch, in slices of `micro_batch_size`, and what the objective computes once."""
        output = encode_in_slices(self.encoded_rows, batch, self.micro_batch_size or batch.size, self.model)
        once = self.objective.once(self.model, output, batch)
        return output._replace(rows={**output.rows, **once})

    # -- Lightning --------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        if getattr(self.trainer.strategy, "passes_are_collective", False):
            check_even(batch.size, self.device)
        batch = self._phases.shrink(self.adaptation.fill(batch, self.model, self.micro_batch_size))
        batch = self.objective.select(self.model, batch)
        output = self.encode_batch(batch)
        parts = self.compute_loss(output, batch)
        whole = over_ranks(parts)
        self._skip_step |= self._guard.watch(whole["loss"], self.trainer.global_step)
        log_losses(self, whole, output.scale, batch.size)
        self._throughput.add(batch.size)
        return parts["loss"]

    @property
    def lr(self) -> float:
        """The learning rate, where Lightning's Tuner looks for it."""
        return self.training_settings.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.training_settings = self.training_settings.with_rate(value)

    def setup(self, stage: str) -> None:
        """The objective takes what it needs from the data and opens what it learns from, before the towers are built."""
        if not self.is_built:
            prepare(self)
        adopt_loaders(self)
        if stage == "fit":
            self.objective.open()

    def on_fit_start(self) -> None:
        """Trains what was loaded, too: that is in evaluation mode, without dropout and with frozen batch statistics."""
        if not self.training:
            self.train()
        start(self, "train")

    def on_train_start(self) -> None:
        begin_steps(self)
        self._phases.start(self.trainer, self.model)
        begin_next_epoch(self.trainer)
        self._throughput.restart()
        self._window.start(self.trainer, self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.adaptation.proceed(self.trainer, self.model)
        self._phases.proceed(self.trainer, self.model)
        self.objective.begin_batch(seed_batch(self.trainer))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._window.proceed(self.trainer, self)
        log_progress(self, self._throughput)

    def on_train_epoch_end(self) -> None:
        """Before loaders of any rank begin the next epoch, they can find the kept features of this one."""
        refresh(self)
        if self.adaptation.cache is not None:
            self.adaptation.cache.store.flush()
            self.trainer.strategy.barrier()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        before_step(self)

    def on_validation_start(self) -> None:
        start(self, "val")  # before a strategy gathers weights for evaluation: what is written then would be lost
        if self.trainer.state.fn == "fit":
            refresh(self)

    def on_test_start(self) -> None:
        start(self, "test")

    def on_validation_epoch_end(self) -> None:
        log_measured(self, self.objective, "val")

    def on_test_epoch_end(self) -> None:
        log_measured(self, self.objective, "test")

    def on_validation_end(self) -> None:
        end_validation(self, self._throughput)

    def on_train_end(self) -> None:
        use_averaged(self.trainer.optimizers)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Steps, then clamps the scale (Radford et al. 2021, section 2.5)."""
        super().optimizer_step(*arguments, **options)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(self.objective.max_scale))
            self.objective.after_step(self.model)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        """Logs the loss of the batch's own pairs and hands the features to the callbacks."""
        return evaluate_batch(self, batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        return evaluate_batch(self, batch)

    def predict_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:
        """Features of all columns that a batch holds, also of those that a step does not read."""
        output = self.encode(batch) if batch.size else empty_output(self)
        others = encode_columns(self, batch, set(self.model.columns) - set(output.features))
        return output._replace(features={**output.features, **others.features})

    def to_mapping(self) -> dict[str, Any]:
        """Arguments that build this module again; live objects are noted by class, to be passed again."""
        return stored_arguments(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the arguments as names and plain mappings, complete without any file."""
        on_save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Sets the locks of the step at which the checkpoint was written."""
        on_load(self, checkpoint)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **options: Any) -> Self:  # type: ignore[override]
        """As Lightning's, but safe by default (`weights_only=True`), in evaluation mode, as the class that wrote it.

        Args:
            checkpoint_path: a .ckpt of this class or a subclass, or an open file of one.
            *arguments: Lightning's.
            **options: Lightning's, and constructor arguments, which replace the stored ones.

        Raises:
            InputError: missing, broken or foreign checkpoint, a map_location that is not there, or arguments that do not fit.
        """

        def load(writer: type, path: Any, given: Mapping[str, Any]) -> Any:
            reader = super(ClipModule, cls).load_from_checkpoint if writer is cls else writer.load_from_checkpoint  # type: ignore[attr-defined]
            return reader(path, *arguments, **given)

        module: Self = load_module(cls, checkpoint_path, options, load)
        return module.eval()
