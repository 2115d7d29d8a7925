"""`Predictor`: a trained model in use. Images and strings of any kind -> unit features, zero-shot classifiers and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.columns import collate_column
from lightning_clip.data.image_steps import reading_of
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import (
    ImageInput,
    TextInput,
    encode_texts,
    joined,
    picture_pixels,
    pixel_batches,
    text_list,
    token_batches,
)
from lightning_clip.model.scoring import Scoring, own_scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.prompts.classifier import ClassNames, zero_shot_classifier

__all__ = ["HasPredictor", "ImageInput", "Predictor", "TextInput", "predictor_of"]


class Predictor:
    """Encodes images, texts and any other columns with a trained model, in evaluation mode and without gradients.

    What uses a model (evaluation, callbacks, export, applications) takes a `Predictor` and nothing of Lightning;
    `ClipModule.predictor` is one. It holds no weights of its own: it sees whatever the model has learned by the time of a call,
    on whatever device the model is by then, and leaves each layer in the mode in which it was.

    Args:
        model: towers, heads and temperature.
        tokenizer: of the text tower; None where no tower reads texts.
        transform: of evaluation: uint8 (3, H, W) of any size -> uint8 (3, S, S).
        scoring: says how images are scored against classes and texts; None takes similarities. `ClipModule` gives its
            objective.

    Examples:
        >>> from PIL import Image
        >>> from lightning_clip import ClipModel
        >>> from lightning_clip.data.tokenizers import tokenizers
        >>> from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform
        >>> model = ClipModel(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> predictor = Predictor(model, tokenizers.build("clip"), evaluation_transform(32, ImageTransformSettings()))
        >>> predictor.encode_text(["a cat", "a dog"]).shape
        torch.Size([2, 16])
        >>> predictor.scores(Image.new("RGB", (48, 40)), ["cat", "dog", "bird"]).shape
        torch.Size([1, 3])
    """

    def __init__(
        self, model: SharedSpace, tokenizer: Tokenizer | None, transform: nn.Module, scoring: Scoring | None = None
    ) -> None:
        self.model, self.tokenizer, self.transform, self.scoring = model, tokenizer, transform, scoring

    @property
    def device(self) -> torch.device:
        """Where images and tokens are sent, as of now."""
        # Of a buffer: strategies that keep weights on the CPU leave buffers where the towers compute.
        first = next(self.model.buffers(), None)
        return self.model.logit_scale.device if first is None else first.device

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels, or of the frames where it sees videos alone."""
        videos = "image" not in self.model.columns and "video" in self.model.columns
        size: int = self.model.tower("video" if videos else "image").image_size
        return size

    def scale(self) -> Tensor:
        """The inverse temperature (1,), without gradient."""
        return self.model.scale()

    def encode_image(self, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) of images.

        Args:
            images: of any size, uint8 or floats from 0 to 1: tensor (B, 3, H, W) or array (B, H, W, 3), one image or several
                in a list or a generator: PIL images, tensors (3, H, W), arrays (H, W, 3), paths, encoded bytes.
            batch_size: images encoded at a time, at least 1.

        Raises:
            InputError: an image that cannot be read, or a tensor of another shape or type.
        """
        with evaluating(self.model):
            return self._joined(self.model.encode_image(pixels) for pixels in self.pixels(images, batch_size))

    def encode_image_with_backbone(self, images: ImageInput, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """Unit features (B, D), and the image tower's (B, W) before the projection, which linear probes read.

        Arguments and errors are those of `encode_image`.
        """
        features, backbones = [], []
        with evaluating(self.model):
            for pixels in self.pixels(images, batch_size):
                backbones.append(self.model.image_backbone(pixels))  # (B, 3, S, S) -> (B, W)
                features.append(normalize(self.model.head("image")(backbones[-1]), dim=-1))  # -> (B, D)
        return self._joined(features), joined(backbones, self.model.tower("image").output_dim, self.device)

    def encode_text(self, texts: TextInput, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) of texts.

        Args:
            texts: one string, strings in a list or a generator, or token ids (B, L) as a tensor or an array, padded with the
                tokenizer's `pad_id` on either side.
            batch_size: texts encoded at a time, at least 1.

        Raises:
            InputError: what is no string, ids of another shape or type or out of range, or no tower reads texts.
        """
        tokenizer = self._tokenizer()

        def encode(tokens: Tensor, mask: Tensor) -> Tensor:
            return self.model.encode_text(tokens.to(self.device), mask.to(self.device))  # (B, L) -> (B, D)

        with evaluating(self.model):
            in_range("batch_size", batch_size, 1, whole=True)
            given = text_list(texts)
            if isinstance(given, Tensor):
                tower = self.model.tower("text")
                limits = tower.vocab_size or tokenizer.vocab_size, tower.context_length
                return self._joined(encode(*batch) for batch in token_batches(given, tokenizer.pad_id, batch_size, *limits))
            return encode_texts(given, tokenizer, batch_size, encode) if given else self._joined([])

    def encode(self, column: str, values: Any, batch_size: int = 256) -> Tensor:
        """Unit features (B, D) of any column's values, such as coordinates or waveforms.

        Args:
            column: which tower encodes them.
            values: one per sample, as a source has them; images as for `encode_image`, texts as for `encode_text`.
            batch_size: values encoded at a time, at least 1.

        Raises:
            InputError: no tower reads the column, or values that the tower cannot collate.
        """
        tower = self.model.tower(column)
        if column == "text":
            return self.encode_text(values, batch_size)
        if self.model.share.get(column, column) == "image":
            return self.encode_image(values, batch_size)
        from lightning.fabric.utilities.apply_func import move_data_to_device  # here: images and texts do without Lightning

        found = []
        with evaluating(self.model):
            for start in range(0, len(values), batch_size):
                part = collate_column(column, tower.collate, list(values[start : start + batch_size]))
                found.append(self.model.encode(column, move_data_to_device(part, self.device)))
        return self._joined(found)

    def _joined(self, parts: Iterable[Tensor]) -> Tensor:
        return joined(parts, self.model.embed_dim, self.device)

    def zero_shot_classifier(self, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Tensor:
        """Class embeddings (D, C), the mean over templates: unit image features times it are cosine similarities.

        Args:
            class_names: C classes, each a name or a list of names.
            templates: a set's name, one template or several, each with {} where the class name goes.

        Raises:
            InputError: no class, an empty class name, or a wrong template.
        """
        # All prompts at once: `encode_text` makes the batches, of equal length.
        return zero_shot_classifier(self.encode_text, class_names, templates, batch_size=1 << 30)

    def scores(
        self,
        images: ImageInput,
        class_names: ClassNames,
        templates: str | Sequence[str] = "simple",
        batch_size: int = 256,
    ) -> Tensor:
        """Logits (B, C) of images against classes; their softmax are the probabilities of the classes.

        Args:
            images: as for `encode_image`.
            class_names: as for `zero_shot_classifier`.
            templates: as for `zero_shot_classifier`.
            batch_size: images encoded at a time, at least 1.

        Raises:
            InputError: as `encode_image` and `zero_shot_classifier`.
        """
        return self.scorer(class_names, templates, batch_size)(images)

    def scorer(
        self, class_names: ClassNames, templates: str | Sequence[str] = "simple", batch_size: int = 256
    ) -> Callable[[ImageInput], Tensor]:
        """`scores` for many calls: the classes are encoded once.

        Scores are those of `own_scorer`, where there is one, else of `similarity`.

        Args:
            class_names: as for `zero_shot_classifier`.
            templates: as for `zero_shot_classifier`.
            batch_size: images encoded at a time, at least 1.

        Returns:
            Images as for `encode_image` -> logits (B, C).
        """
        own = own_scorer(self, class_names, templates, batch_size)
        return self.similarity(class_names, templates, batch_size) if own is None else own

    def similarity(
        self, class_names: ClassNames, templates: str | Sequence[str] = "simple", batch_size: int = 256
    ) -> Callable[[ImageInput], Tensor]:
        """As `scorer`, by similarity to the classes' prompts: scale times cosine.

        Args:
            class_names: as for `zero_shot_classifier`.
            templates: as for `zero_shot_classifier`.
            batch_size: images encoded at a time, at least 1.

        Returns:
            Images as for `encode_image` -> logits (B, C).
        """
        classifier, scale = self.zero_shot_classifier(class_names, templates), self.scale()

        def scores(images: ImageInput) -> Tensor:
            scaled = scale * self.encode_image(images, batch_size)  # (B, D); float32 from a model in half precision
            return scaled @ classifier.to(scaled.dtype)  # (B, D) @ (D, C) -> (B, C)

        return scores

    def text_settings(self) -> dict[str, Any]:
        """What besides the weights decides about text features: the tokenizer, as a mapping; empty without one."""
        return {} if self.tokenizer is None else self.tokenizer.to_mapping()

    def _tokenizer(self) -> Tokenizer:
        self.model.tower("text")  # or an error that names the columns which are read
        assert self.tokenizer is not None
        return self.tokenizer

    def read(self, image: Any) -> Tensor:
        """One picture as uint8 (3, H, W) of its own size, read as the model's preprocessing does: its window, page and bands.

        Args:
            image: a picture, pixels, encoded bytes or a path.

        Raises:
            InputError: no image, or one that cannot be read.
        """
        return picture_pixels(image, reading_of(self.transform))

    def pixels(self, images: ImageInput, batch_size: int = 256) -> Iterator[Tensor]:
        """Images, as for `encode_image`, as uint8 (B, 3, S, S) on the model's device, in batches of at most `batch_size`."""
        self.model.tower("image")  # or an error that names the columns which are read
        device = self.device
        channels = self.model.mean.shape[1]
        for pixels in pixel_batches(images, self.transform, self.image_size, batch_size, channels):
            yield pixels.to(device)


class HasPredictor(Protocol):
    """What is used through its predictor: `ClipModule` and its subclasses, or any LightningModule that has the property."""

    @property
    def predictor(self) -> Predictor:
        """Encodes images and texts with the weights as they are now."""
        ...


def predictor_of(source: Any) -> Predictor:
    """The predictor of a module, or a predictor as it is.

    Args:
        source: a `Predictor`, or an object with the property `predictor`.

    Raises:
        InputError: an object that has none.
    """
    if isinstance(source, Predictor):
        return source
    # Of the class, where it has one: what goes wrong in a property must not read as if there were none.
    found = source.predictor if hasattr(type(source), "predictor") else getattr(source, "predictor", None)
    if not isinstance(found, Predictor):
        raise InputError(
            f"{type(source).__name__} has no predictor: give a ClipModule, or a LightningModule with a property `predictor` "
            "that returns a lightning_clip Predictor"
        )
    return found
