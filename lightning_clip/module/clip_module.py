"""`ClipModule`: a `PairBatch` arrives, a loss leaves; it owns tokenizer and preprocessing, so a checkpoint is enough."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import Self

from lightning_clip.adapt import Adaptation, AdaptSettings, FeatureCache, grow_tower, grown_tokenizer, known_base
from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, Pair, PairBatch
from lightning_clip.data import ClipDataModule
from lightning_clip.data.captions import random_caption
from lightning_clip.data.tokenizers import Tokenizer, tokenizers
from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform, training_transform
from lightning_clip.encoders import ImageEncoder, TextEncoder
from lightning_clip.losses import ContrastiveLoss, caption_ids, losses
from lightning_clip.model.build import build_model, default_tokenizer
from lightning_clip.model.clip import ClipModel
from lightning_clip.model.predictor import ImageInput, Predictor
from lightning_clip.model.presets import preset
from lightning_clip.module.adapting import Adapted
from lightning_clip.module.checkpointing import Stored
from lightning_clip.strategies import check_strategy
from lightning_clip.training.execution import ExecutionSettings, prepare
from lightning_clip.training.guard import FiniteGuard, check_even, drop_gradients, gradient_norm
from lightning_clip.training.micro_batches import check_micro_batches, encode_in_slices
from lightning_clip.training.optim import OptimizerSettings, build_optimizer, build_scheduler, undecayed_names
from lightning_clip.training.seeding import seed_batch
from lightning_clip.training.throughput import Throughput
from lightning_clip.weights.opening import start_from

__all__ = ["ClipModule"]


class ClipModule(Adapted, Stored):
    """Contrastive image-text learning as a LightningModule.

    Subclasses change a domain's particulars in five hooks and nothing else: `encode`, `compute_loss`, `image_transform`,
    `choose_caption` and the constructor's defaults. `lightning_clip.variants.convirt` is a worked example.

    Args:
        image_encoder: a registered or timm name, a mapping {"name": ..., settings}, or an `ImageEncoder`; None takes that of
            `pretrained`, or "vit_base_patch32_clip_224".
        text_encoder: "clip_text_small|base|large|huge", "hf:NAME_OR_FOLDER", a mapping, or a `TextEncoder`; None takes that of
            `pretrained`, or "clip_text_base".
        pretrained: published weights or a checkpoint to start from, see `from_pretrained`: "open_clip:NAME/TAG", "hf:NAME", a
            folder or a file, or a mapping {"source": ..., "image_size": ..., "context_length": ..., "allow_pickle": ...}.
            They bring towers, heads, loss, tokenizer and preprocessing; a tower that is given beside them starts anew.
        embed_dim: width D of the shared space; None takes that of `pretrained`, or 512.
        loss: "softmax", "sigmoid", a mapping, or a `ContrastiveLoss`; None takes that of `pretrained`, or "softmax".
        projection: head of both towers ("linear", "mlp", "none"), or {"image": ..., "text": ...}; None takes that of
            `pretrained`, or "linear".
        tokenizer: "clip", "hf:NAME_OR_FOLDER", a path written by `lightning-clip tokenizer train`, or a `Tokenizer`;
            None takes the one of an `hf:` text encoder, otherwise CLIP's.
        transform: crops, flips and normalisation, see `ImageTransformSettings`.
        optimizer: learning rate and schedule, see `OptimizerSettings`.
        micro_batch_size: pairs encoded at a time; memory then holds the activations of so many, for a third more time.
            The gradient stays that of the whole batch. None encodes the batch at once.
        execution: compilation, activation checkpointing and other things that change speed only, see `ExecutionSettings`.
        adapt: what is trained when a trained model is adapted: locks, rates by depth, stages, LoRA, see `AdaptSettings`.

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

    model: ClipModel
    training_parts: frozenset[str] = frozenset()  # of `model`: what only training needs, and exports leave out

    def __init__(
        self,
        image_encoder: str | dict[str, Any] | ImageEncoder | None = None,
        text_encoder: str | dict[str, Any] | TextEncoder | None = None,
        *,
        pretrained: str | dict[str, Any] | None = None,
        embed_dim: int | None = None,
        loss: str | dict[str, Any] | ContrastiveLoss | None = None,
        projection: str | dict[str, Any] | None = None,
        tokenizer: str | dict[str, Any] | Tokenizer | None = None,
        transform: dict[str, Any] | ImageTransformSettings | None = None,
        optimizer: dict[str, Any] | OptimizerSettings | None = None,
        micro_batch_size: int | None = None,
        execution: dict[str, Any] | ExecutionSettings | None = None,
        adapt: dict[str, Any] | AdaptSettings | None = None,
    ) -> None:
        super().__init__()
        if micro_batch_size is not None and micro_batch_size < 1:
            raise InputError(f"micro_batch_size {micro_batch_size} must be at least 1, or None to encode the batch at once")
        given = {"image_encoder": image_encoder, "text_encoder": text_encoder, "embed_dim": embed_dim, "projection": projection}
        self._given = {"pretrained": pretrained, **given}
        parts, self._start = start_from(pretrained, {**given, "loss": loss, "tokenizer": tokenizer, "transform": transform})
        self._image_encoder, self._text_encoder = parts["image_encoder"], parts["text_encoder"]
        self.embed_dim: int = parts["embed_dim"]
        self._projection = parts["projection"]
        self.loss = losses.build(parts["loss"])
        self.tokenizer = tokenizers.build(
            default_tokenizer(self._text_encoder) if parts["tokenizer"] is None else parts["tokenizer"]
        )
        self.transform_settings = ImageTransformSettings.of(parts["transform"])
        self.optimizer_settings = OptimizerSettings.of(optimizer)
        self.micro_batch_size = micro_batch_size
        self.execution_settings = ExecutionSettings.of(execution)
        self.adapt_settings = AdaptSettings.of(adapt)
        self._first_tokenizer = self.tokenizer
        self.tokenizer = grown_tokenizer(self.tokenizer, self.adapt_settings.text)
        self.loss.check_finite = self.execution_settings.non_finite == "stop"
        self._guard = FiniteGuard(self.execution_settings.non_finite)
        self._skip_step = False
        self._undecayed: set[str] = set()
        self._throughput = Throughput()
        self._cache: FeatureCache | None = None

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

    # -- use, see `Predictor` -----------------------------------------------------------------------------------------

    @property
    def predictor(self) -> Predictor:
        """What uses this module: encodes images and texts in evaluation mode; builds the towers on first use."""
        return Predictor(self._built(), self.tokenizer, self.image_transform(train=False))

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self._built().image_encoder.image_size

    def encode_image(self, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Unit features (B, D), see `Predictor.encode_image`."""
        return self.predictor.encode_image(images, batch_size)

    def encode_text(self, texts: str | Sequence[str] | Tensor, batch_size: int = 256) -> Tensor:
        """Unit features (B, D), see `Predictor.encode_text`."""
        return self.predictor.encode_text(texts, batch_size)

    def zero_shot_classifier(self, class_names: Sequence[str], templates: str | Sequence[str] = "simple") -> Tensor:
        """Class embeddings (D, C), see `Predictor.zero_shot_classifier`."""
        return self.predictor.zero_shot_classifier(class_names, templates)

    # -- hooks a subclass may override ------------------------------------------------------------------------------

    def encode(self, batch: PairBatch) -> ClipOutput:
        """Features of a batch; what `compute_loss` receives."""
        output: ClipOutput = self.model(batch.image, batch.tokens, batch.mask, batch.lengths)
        return output

    def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        """The key "loss" () is minimised; other keys are logged beside it."""
        assert output.image_features is not None and output.text_features is not None
        options = {"positives": self.positives(batch)} if self.loss.duplicates else {}
        return {"loss": self.loss(output.image_features, output.text_features, output.scale, output.bias, **options)}

    def positives(self, batch: PairBatch) -> Tensor:
        """Ids int64 (B, K) for losses with `duplicates`: rows equal in any column count as pairs of each other.

        Here the image's place in its source, and a hash of the caption's tokens.
        """
        return torch.stack([batch.index, caption_ids(batch.tokens, batch.mask)], dim=1)

    def image_transform(self, train: bool) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S); runs in the loader's workers, draws from torch's generator."""
        make = training_transform if train else evaluation_transform
        return make(self.image_size, self.transform_settings)

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        """The text of a pair for this visit; static, so that workers need not receive the model."""
        return random_caption(pair, rng)

    def complete_model(self) -> None:
        """Adds parts of a subclass's own to `self.model` and says what rests, before locks and strategies see it."""

    def read_data(self, data: ClipDataModule) -> None:
        """Takes from the data what the model is made of, where there is no Trainer yet to ask; here nothing."""

    # -- Lightning --------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the towers, once, where the strategy wants them."""
        if self._trainer is not None:
            check_strategy(self.trainer.strategy)
        if hasattr(self, "model"):
            return
        self.model = build_model(
            self._image_encoder,
            self._text_encoder,
            embed_dim=self.embed_dim,
            projection=self._projection,
            loss=self.loss,
            tokenizer=self._first_tokenizer,
            transform=self.transform_settings,
        )
        base = known_base(self._given, self._start.weights if self._start else ())
        if self._start is not None:
            self._start.load_into(self.model)
            self._start = None  # a checkpoint holds all of it from now on
        if self.tokenizer is not self._first_tokenizer:
            grow_tower(self.model.text_encoder, self._first_tokenizer, self.tokenizer, self.adapt_settings)
        self.complete_model()
        strategy = self.trainer.strategy if self._trainer else None
        self._adaptation = Adaptation(self.model, self.adapt_settings, strategy, base)
        prepare(self.model, self.execution_settings)
        self._undecayed = undecayed_names(self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # A fused step under float16 scaling would rule out clipping by norm.
        fused = self.trainer.precision != "16-mixed"
        rates = self._adaptation.rates(self.optimizer_settings, self._undecayed)
        optimizer = build_optimizer(self.model, self.optimizer_settings, self._undecayed, fused, rates)
        scheduler = build_scheduler(optimizer, self.optimizer_settings, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        if getattr(self.trainer.strategy, "passes_are_collective", False):
            check_even(len(batch.image), self.device)
        if self._cache is not None:
            batch = self._cache.fill(batch, self.model, self.micro_batch_size)
        output = encode_in_slices(self.encode, batch, self.micro_batch_size or len(batch.image))
        parts = self.compute_loss(output, batch)
        self._skip_step |= self._guard.watch(parts["loss"], self.trainer.global_step)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, prog_bar=True)
        self.log("train/scale", output.scale.detach())
        self._throughput.add(len(batch.image))
        return parts["loss"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._adaptation.proceed(self.trainer, self.model)
        seed_batch(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.trainer.global_step
        if step and step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/learning_rate", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
            speed = self._throughput.read() * self.trainer.world_size
            if speed:
                self.log("train/samples_per_second", speed)

    def on_train_start(self) -> None:
        if self.micro_batch_size is not None:
            local_batch_size = getattr(self.trainer.datamodule, "local_batch_size", None)  # type: ignore[attr-defined]
            for _ in self._adaptation.each_stage(self.model):
                check_micro_batches(self.model, self.micro_batch_size, local_batch_size)
        self._throughput.restart()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Logs the norm of the gradients before clipping, and drops them where the step is skipped."""
        if self._skip_step:
            drop_gradients(self.model.parameters())
            self._skip_step = False
            self.log("train/skipped_steps", float(self._guard.skipped))
        elif getattr(self.trainer.strategy, "keeps_gradients", False):
            return  # and logs their norm
        elif self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/gradient_norm", gradient_norm(self.model.parameters()))

    def on_validation_end(self) -> None:
        self._throughput.restart()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Steps, then clamps the scale (Radford et al. 2021, section 2.5)."""
        super().optimizer_step(*arguments, **options)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(self.loss.max_scale))

    def validation_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        """Logs the loss of the batch's own pairs and hands the features to the callbacks."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:  # type: ignore[override]
        return self._evaluation_step(batch, "test")

    def predict_step(self, batch: PairBatch, batch_idx: int) -> ClipOutput:
        return self.encode(batch)

    # -- details ----------------------------------------------------------------------------------------------------

    def _evaluation_step(self, batch: PairBatch, stage: str) -> ClipOutput:
        output = self.encode(batch)
        if batch.captions and all(batch.captions):
            parts = self.compute_loss(output, batch)
            size = len(batch.image)
            self.log_dict({f"{stage}/{name}": value for name, value in parts.items()}, sync_dist=True, batch_size=size)
        return output

    def _built(self) -> ClipModel:
        if not hasattr(self, "model"):
            self.configure_model()
        return self.model
