"""A module and its checkpoints: what it was built of is stored as plain mappings, and read again without arguments."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from typing_extensions import Self

from lightning_clip.adapt import Adaptation, AdaptSettings, FeatureCache
from lightning_clip.checkpoints import complete, options_with_base
from lightning_clip.checkpoints.fit import check_fit
from lightning_clip.checkpoints.reading import CLASS_KEY, class_of_checkpoint, class_path, explain_loading
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.model.build import plain_settings, plain_spec
from lightning_clip.model.clip import ClipModel
from lightning_clip.training.execution import ExecutionSettings
from lightning_clip.training.optim import OptimizerSettings

__all__ = ["Stored"]

_GO_ON = (
    "It was written by another class or under other settings: go on with those, or let a new run begin with its towers "
    "(pretrained: FILE.ckpt)"
)


class Stored(pl.LightningModule):
    """The part of `ClipModule` that writes and reads checkpoints."""

    model: ClipModel
    embed_dim: int
    loss: ContrastiveLoss
    tokenizer: Tokenizer
    transform_settings: ImageTransformSettings
    optimizer_settings: OptimizerSettings
    execution_settings: ExecutionSettings
    adapt_settings: AdaptSettings
    micro_batch_size: int | None
    _adaptation: Adaptation
    _cache: FeatureCache | None
    _first_tokenizer: Tokenizer
    _image_encoder: Any
    _text_encoder: Any
    _projection: Any

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Sets the locks of the step at which the checkpoint was written."""
        self._built()
        complete(checkpoint, self)
        if self._trainer is not None and self.strict_loading and "state_dict" in checkpoint:  # else said while it is loaded
            check_fit(str(self.trainer.ckpt_path), self.state_dict(), checkpoint["state_dict"], _GO_ON)
        self._adaptation.resume(self.model, checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the arguments as names and plain mappings, complete without any file."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = self.to_mapping()
        checkpoint[CLASS_KEY] = class_path(type(self))
        if self._adaptation.partial is not None:
            self._adaptation.partial.shrink(checkpoint)
        if self._cache is not None:
            self._cache.store.flush()

    def to_mapping(self) -> dict[str, Any]:
        """Arguments that build this module again; live objects are noted by class, to be passed again."""
        model = self._built()
        image, text = model.image_encoder.to_mapping(), model.text_encoder.to_mapping()
        again = "pretrained" in self._adaptation.base_arguments or self._adaptation.new_tokens
        return {
            "image_encoder": image or plain_spec(self._image_encoder),
            "text_encoder": text or plain_spec(self._text_encoder),
            "embed_dim": self.embed_dim,
            "loss": losses.describe(self.loss),
            "projection": self._projection,
            # What `pretrained` brings again grows again, and so does a table with new tokens apart.
            "tokenizer": (self._first_tokenizer if again else self.tokenizer).to_mapping(),
            "transform": plain_settings(self.transform_settings),
            "optimizer": plain_settings(self.optimizer_settings),
            "micro_batch_size": self.micro_batch_size,
            "execution": plain_settings(self.execution_settings),
            "adapt": self.adapt_settings.to_mapping(),
            **self._adaptation.base_arguments,
        }

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **options: Any) -> Self:  # type: ignore[override]
        """As Lightning's, but safe by default (`weights_only=True`), in evaluation mode, as the class that wrote it.

        Args:
            checkpoint_path: a .ckpt of this class or a subclass.
            *arguments: Lightning's.
            **options: Lightning's, and constructor arguments, which replace the stored ones.

        Raises:
            InputError: missing, broken or foreign checkpoint, or arguments that do not fit its weights.
        """
        options = {"weights_only": True, "map_location": "cpu", **options}
        with explain_loading(checkpoint_path, cls):
            writer = class_of_checkpoint(checkpoint_path, cls, options["weights_only"])
            options = options_with_base(checkpoint_path, options)
            load = super().load_from_checkpoint if writer is cls else writer.load_from_checkpoint  # type: ignore[attr-defined]
            module: Self = load(checkpoint_path, *arguments, **options)
        return module.eval()

    def _built(self) -> ClipModel:
        raise NotImplementedError
