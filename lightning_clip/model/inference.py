"""Using a model: pictures and strings of any kind arrive, unit features leave, without gradients or traces in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.data.decoding import from_pil
from lightning_clip.data.tokenizers import Tokenizer, checked
from lightning_clip.model.clip import ClipModel
from lightning_clip.prompts import zero_shot_classifier

__all__ = ["Inference", "encode_texts", "evaluating", "pixel_batches"]


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

        def encode(tokens: Tensor, mask: Tensor) -> Tensor:
            return model.encode_text(tokens.to(device), mask.to(device))

        with evaluating(model):
            if isinstance(texts, Tensor):
                return torch.cat([encode(*batch) for batch in token_batches(texts, self.tokenizer.pad_id, batch_size)])
            return encode_texts([texts] if isinstance(texts, str) else texts, self.tokenizer, batch_size, encode)

    def zero_shot_classifier(self, class_names: Sequence[str], templates: str | Sequence[str] = "simple") -> Tensor:
        """Class embeddings (D, num_classes), the mean over templates: image features times it are cosine similarities."""
        # All prompts at once: `encode_text` makes the batches, of equal length.
        return zero_shot_classifier(self.encode_text, class_names, templates, batch_size=1 << 30)

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


def token_batches(tokens: Tensor, pad_id: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids int64 (B, L), padded on the right, with their mask bool (B, L), in batches."""
    for part in torch.split(tokens, batch_size):
        # True up to the last token that is no padding: the id of padding may also occur inside a text.
        yield part, (part != pad_id).flip(1).cumsum(1).flip(1) > 0


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, batch_size: int, encode: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Features (B, D) in the order of the texts: each distinct one once, among others of its length and cut to it.

    Args:
        texts: strings.
        tokenizer: of the text tower.
        batch_size: texts encoded at a time.
        encode: tokens int64 (B, L) and mask bool (B, L) -> features (B, D).
    """
    distinct = list(dict.fromkeys(checked(texts)))
    rows = dict(zip(distinct, tokenizer.encode(distinct), strict=True))
    order = sorted(distinct, key=lambda text: len(rows[text]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    features = torch.cat([encode(*tokenizer.padded([rows[text] for text in batch])) for batch in batches])
    place = {text: number for number, text in enumerate(order)}
    return features[torch.tensor([place[text] for text in texts], device=features.device)]
