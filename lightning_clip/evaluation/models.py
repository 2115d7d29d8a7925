"""Models to evaluate: a checkpoint, a name, a folder, a module or a predictor -> an `EvaluatedModel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.loading import is_name, open_predictor
from lightning_clip.model.predictor import HasPredictor, Predictor, predictor_of
from lightning_clip.model.scoring import own_scorer, own_text_scorer

__all__ = ["PredictorModel", "open_model"]


class PredictorModel(EvaluatedModel):
    """A model of this library, through its predictor.

    Args:
        predictor: of a module, or made of a bare model.
        name: in tables.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> PredictorModel(module.predictor, "tiny").encode_text(["a cat", "a dog"]).shape
        torch.Size([2, 16])
    """

    def __init__(self, predictor: Predictor, name: str = "model") -> None:
        super().__init__(name, predictor.image_size)
        self.predictor = predictor
        self.model = predictor.model  # so that `to` and `eval` reach it
        self.reads_texts = "text" in predictor.model.columns

    @property
    def scale(self) -> float:
        """The inverse temperature."""
        return float(self.predictor.scale())

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.predictor.device

    def transform(self) -> nn.Module:
        """The predictor's: uint8 (3, H, W) of any size -> uint8 (3, S, S)."""
        return self.predictor.transform

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features (B, D) and those before the projection (B, W), in float32.

        Args:
            image: uint8 (B, 3, S, S).
        """
        features, backbone = self.predictor.encode_image_with_backbone(image, max(1, len(image)))
        return features.float(), backbone.float()

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in float32 on the CPU.

        Args:
            texts: B strings.
            batch_size: encoded at a time, at least 1.
        """
        return self.predictor.encode_text(texts, batch_size).float().cpu()

    def scorer(self, class_names: Sequence[Any], templates: Sequence[str]) -> Callable[[Tensor], Tensor] | None:
        """The objective's scorer of these classes; None where it is similarity to their prompts.

        Args:
            class_names: C classes, each a name or a list of names.
            templates: with {}.
        """
        return own_scorer(self.predictor, class_names, list(templates))

    def text_scorer(self, text_features: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The objective's scorer of texts; None where it is similarity.

        Args:
            text_features: (N, D), as `encode_text` gives them.
        """
        return own_text_scorer(self.predictor, text_features)

    def scoring_settings(self) -> Any:
        """The objective, as a mapping."""
        return None if self.predictor.scoring is None else self.predictor.scoring.to_mapping()

    def text_settings(self) -> Any:
        """The tokenizer, as a mapping."""
        return self.predictor.text_settings()


def open_model(source: str | Path | Predictor | HasPredictor | EvaluatedModel) -> EvaluatedModel:
    """Opens weights from anywhere, in evaluation mode; what is read from a disk or a hub is on the CPU.

    Args:
        source: a .ckpt of ours; what `ClipModule.from_pretrained` takes: `open_clip:NAME/WEIGHTS` (a tag or a file),
            `hf:NAME_OR_FOLDER`, a folder that open_clip, transformers or `export` wrote, a file of weights; a `Predictor`, a
            module that has one, or an `EvaluatedModel`, which is handed back.

    Raises:
        InputError: nothing of that name, weights that do not fit, weights that would have to be downloaded without network, or
            an object that has no predictor.
    """
    if isinstance(source, EvaluatedModel):
        return source.eval()
    if isinstance(source, str | Path):
        return PredictorModel(open_predictor(source), _name_of(str(source))).eval()
    return PredictorModel(predictor_of(source), type(source).__name__).eval()


def _name_of(source: str) -> str:
    """What a source is called in tables: a checkpoint by its file, or by its folder where all are called last or best."""
    path = Path(source).expanduser()
    if is_name(source) or path.is_dir():
        return source.replace(":", " ", 1)
    return path.stem if path.stem not in ("last", "best") else f"{path.parent.name}/{path.stem}"
