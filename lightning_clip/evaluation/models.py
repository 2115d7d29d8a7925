"""Weights from anywhere as one kind of thing: a checkpoint, a name or a folder arrives, an `EvaluatedModel` leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.loading import is_name, open_module
from lightning_clip.model.predictor import encode_texts
from lightning_clip.module.clip_module import ClipModule

__all__ = ["ModuleModel", "open_model"]


class ModuleModel(EvaluatedModel):
    """A `ClipModule` of ours or a subclass.

    Args:
        module: with weights.
        name: in tables.
    """

    def __init__(self, module: ClipModule, name: str = "model") -> None:
        super().__init__(name, module.image_size, module.transform_settings)
        module.configure_model()
        self.module = module

    @property
    def scale(self) -> float:
        return float(self.module.model.scale())

    def transform(self) -> nn.Module:
        return self.module.image_transform(train=False)

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        model = self.module.model
        backbone = model.image_backbone(image)
        return normalize(model.head("image")(backbone), dim=-1).float(), backbone.float()

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        def encode(tokens: Tensor, mask: Tensor) -> Tensor:
            return self.module.model.encode_text(tokens.to(self.device), mask.to(self.device)).float().cpu()

        with torch.no_grad():
            return encode_texts(texts, self.module.tokenizer, batch_size, encode)

    def text_settings(self) -> Any:
        return self.module.tokenizer.to_mapping()


Opener = Callable[[str], EvaluatedModel]


def open_model(source: str | ClipModule | EvaluatedModel) -> EvaluatedModel:
    """Opens weights from anywhere, in evaluation mode on the CPU.

    Args:
        source: a .ckpt of ours; what `ClipModule.from_pretrained` takes: `open_clip:NAME/WEIGHTS` (a tag or a file),
            `hf:NAME_OR_FOLDER`, a folder that open_clip, transformers or `export` wrote, a file of weights; or a live module.

    Raises:
        InputError: nothing of that name, weights that do not fit, or weights that would have to be downloaded without network.
    """
    if isinstance(source, EvaluatedModel):
        return source.eval()
    if isinstance(source, ClipModule):
        return ModuleModel(source, type(source).__name__).eval()
    path = Path(source).expanduser()
    if is_name(source) or path.is_dir():
        name = source.replace(":", " ", 1)
    else:
        name = path.stem if path.stem not in ("last", "best") else f"{path.parent.name}/{path.stem}"
    return ModuleModel(open_module(source), name).eval()


def safe_name(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
