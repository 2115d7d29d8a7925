"""Using a model: pictures and strings of any kind arrive, unit features leave, without gradients or traces in the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_clip.data.decoding import from_pil
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.errors import InputError
from lightning_clip.model import ClipModel
from lightning_clip.prompts import zero_shot_classifier

__all__ = ["Inference", "evaluating", "pixel_batches", "token_batches"]


class Inference:
    """What a trained module is used for; `ClipModule` has it.

    Attributes:
        tokenizer: of the text tower.
    """

    tokenizer: Tokenizer

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self._built().image_encoder.image_size

    def encode_image(self, images: Tensor | Image.Image | Sequence[Image.Image], batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in evaluation mode, without gradients.

        Args:
            images: uint8 (B, 3, H, W) of any size, one PIL image or a list of them.
            batch_size: images encoded at a time.
        """
        model, device = self._built(), self._where()
        with evaluating(model):
            batches = pixel_batches(images, self.image_transform(train=False), self.image_size, batch_size)
            return torch.cat([model.encode_image(pixels.to(device)) for pixels in batches])

    def encode_text(self, texts: str | Sequence[str] | Tensor, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in evaluation mode, without gradients.

        Args:
            texts: one string, strings, or token ids int64 (B, L) padded with the tokenizer's `pad_id`.
            batch_size: texts encoded at a time.
        """
        model, device = self._built(), self._where()
        with evaluating(model):
            batches = token_batches(texts, self.tokenizer, batch_size)
            return torch.cat([model.encode_text(tokens.to(device), mask.to(device)) for tokens, mask in batches])

    def zero_shot_classifier(self, class_names: Sequence[str], templates: str | Sequence[str] = "simple") -> Tensor:
        """Class embeddings (D, num_classes), the mean over templates: image features times it are cosine similarities."""
        return zero_shot_classifier(self.encode_text, class_names, templates)

    def image_transform(self, train: bool) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S)."""
        raise NotImplementedError

    def _built(self) -> ClipModel:
        raise NotImplementedError

    def _where(self) -> torch.device:
        device: torch.device = self.device  # type: ignore[attr-defined]  # of the LightningModule beside it
        return device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule is in the mode in which it was."""
    training = [layer for layer in model.modules() if layer.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in training:
            layer.training = True


def pixel_batches(
    images: Tensor | Image.Image | Sequence[Image.Image], transform: nn.Module, size: int, batch_size: int
) -> Iterator[Tensor]:
    """Pictures as uint8 (B, 3, size, size) in batches.

    Args:
        images: uint8 (B, 3, H, W) of any size, one PIL image or a list of them.
        transform: brings other sizes to `size`.
        size: side in pixels; tensors of that size are taken as they are.
        batch_size: the largest B.

    Raises:
        InputError: a tensor of another shape or type.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise InputError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        for part in torch.split(images, batch_size):
            yield part if part.shape[-2:] == (size, size) else transform(part)
        return
    pictures = [images] if isinstance(images, Image.Image) else images
    for start in range(0, len(pictures), batch_size):
        yield torch.stack([transform(from_pil(picture)) for picture in pictures[start : start + batch_size]])


def token_batches(
    texts: str | Sequence[str] | Tensor, tokenizer: Tokenizer, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts as tokens int64 (B, L) with their mask bool (B, L), in batches.

    Args:
        texts: one string, strings, or token ids (B, L) padded on the right with the tokenizer's `pad_id`.
        tokenizer: for strings.
        batch_size: the largest B.
    """
    if isinstance(texts, Tensor):
        for tokens in torch.split(texts, batch_size):
            # True up to the last token that is no padding: the id of padding may also occur inside a text.
            yield tokens, (tokens != tokenizer.pad_id).flip(1).cumsum(1).flip(1) > 0
        return
    strings = [texts] if isinstance(texts, str) else list(texts)
    for start in range(0, len(strings), batch_size):
        yield tokenizer(strings[start : start + batch_size])
