"""Towers: one feature vector per sample from any column of a batch, before any projection into the shared space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.stacking import stack_values
from lightning_clip.encoders.steps import Steps

__all__ = ["ImageEncoder", "TextEncoder", "Tower", "image_encoders", "text_encoders", "towers"]


class Tower(nn.Module, ABC):
    """One modality's encoder: what the framework asks of it, with defaults for all but `forward`.

    Args:
        output_dim: width W of its features.
        column: what of a sample it reads; None keeps the class attribute `column`.

    Examples:
        >>> class Coordinates(Tower):
        ...     column = "gps"
        ...     def __init__(self, width: int = 32) -> None:
        ...         super().__init__(output_dim=width)
        ...         self.layer = nn.Linear(2, width)
        ...     def forward(self, gps: Tensor) -> Tensor:
        ...         return self.layer(gps)
        >>> tower = Coordinates()
        >>> tower(tower.collate([(48.9, 2.4), (52.5, 13.4), (41.9, 12.5)])).shape
        torch.Size([3, 32])
    """

    # What of a sample the tower reads; empty where whoever holds the tower names its column.
    column: str = ""
    # What its library calls it, for messages; None where it has no name beside its class.
    architecture: str | None = None

    def __init__(self, output_dim: int, column: str | None = None) -> None:
        super().__init__()
        self.output_dim = output_dim
        if column is not None:
            self.column = column

    @staticmethod
    def collate(values: list[Any]) -> Any:
        """The column's values of B samples as what `forward` takes; runs in the data loader's workers.

        Args:
            values: one per sample. By default numbers or arrays of one shape, which `stack_values` stacks.

        Returns:
            A tensor (B, ...), or a tuple of tensors where `forward` takes several.

        Raises:
            InputError: values of different shapes, or what is no number.
        """
        return stack_values(values)

    @abstractmethod
    def forward(self, *value: Any, **named: Any) -> Tensor:
        """What `collate` gave, on the device -> features (B, output_dim)."""

    def example(self, size: int) -> Any:
        """Values of `size` samples as `collate` gives them, by which `lightning-clip plan` counts what the tower costs.

        Raises:
            InputError: this tower gives none.
        """
        raise InputError(f"{type(self).__name__} is not supported by plan: add the method example() to it")

    def forward_tokens(self, *value: Any, **named: Any) -> Tensor:
        """What `forward` takes -> (B, L, W), where the tower has tokens.

        Raises:
            InputError: this tower has none.
        """
        raise self._no_tokens()

    def forward_both(self, *value: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """What `forward` takes -> features (B, output_dim) and tokens (B, L, W).

        By default two passes, each with its own dropout; towers that have both at once override it with one pass.

        Raises:
            InputError: this tower has no tokens.
        """
        return self(*value, **named), self.forward_tokens(*value, **named)

    def blocks(self) -> list[nn.Module]:
        """The repeated layers in order, first to last; sharding, checkpointing and freezing by depth ask for them."""
        return []

    def checkpoint_blocks(self) -> None:
        """From now on the blocks keep no activations in training and compute them again in backward.

        Raises:
            InputError: this tower cannot.
        """
        raise InputError(f"{type(self).__name__} cannot checkpoint its activations: omit it from execution.checkpoint")

    def token_table(self) -> nn.Module:
        """The table of token vectors through which all tokens pass: learned prompts are inserted after it, and new tokens of a
        frozen tower get rows beside it.

        Raises:
            InputError: this tower has none.
        """
        raise InputError(
            f"{type(self).__name__} has no token_table(), which learned prompts and new tokens of a frozen tower need: add "
            "the method"
        )

    def grow(self, vocab_size: int, context_length: int) -> None:
        """Takes at least `vocab_size` token ids and `context_length` tokens; those there were keep their embeddings exactly.

        New ones begin as a function of the old ones, without a random draw, so that growing again gives the same.

        Raises:
            InputError: this tower cannot.
        """
        raise self._no_growth(vocab_size, context_length)

    def to_mapping(self) -> dict[str, Any] | None:
        """A plain mapping that builds this tower again with no file at hand, or None to use the user's own spec."""
        return None

    def _no_tokens(self) -> InputError:
        return InputError(f"{type(self).__name__} gives one vector per sample and has no token output")

    def _no_growth(self, vocab_size: int, context_length: int) -> InputError:
        return InputError(
            f"{type(self).__name__} cannot be grown to {vocab_size} tokens and a context of {context_length}: omit new_tokens "
            "and context_length from adapt.text"
        )


class ImageEncoder(Tower):
    """An image tower.

    Args:
        output_dim: width of its features.
        image_size: side in pixels of the square images it takes.

    Attributes:
        channels: of the images it takes: 3, or what its options say, as many as the transform gives (`channels`, `bands`).
    """

    column = "image"
    channels: int = 3

    def __init__(self, output_dim: int, image_size: int) -> None:
        super().__init__(output_dim)
        self.image_size = image_size

    @staticmethod
    def collate(values: list[Any]) -> Tensor:
        """Pixels (3, H, W) of B samples -> (B, 3, H, W); uint8 stays uint8, which the model normalises on the device.

        Raises:
            InputError: images of different sizes.
        """
        return stack_values(values, keep=[torch.uint8])

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, H, W) -> (B, output_dim)."""

    def drop_tokens(self, share: float) -> None:
        """From now on drops that share of its patches, in [0, 1), in training.

        Raises:
            InputError: this tower cannot.
        """
        raise InputError(f"{type(self).__name__} cannot drop image tokens: take a ViT, or smaller images (image_size)")

    def take_sizes(self) -> None:
        """From now on takes smaller square images, too, and gives for those of its own size what it gave.

        Raises:
            InputError: this tower cannot.
        """
        raise InputError(f"{type(self).__name__} takes images of one size: take a ViT or a convolutional network")

    def dense_view(self) -> DenseView:
        """The tower as steps, from which features of each place of a picture are made.

        Raises:
            InputError: this tower gives one vector per image.
        """
        raise InputError(f"{type(self).__name__} has no features of places: take a ViT or a ResNet, or add dense_view()")

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, H, W) -> (B, L, W), where the tower has tokens."""
        raise self._no_tokens()

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, H, W) -> features (B, output_dim) and tokens (B, L, W)."""
        return self(image), self.forward_tokens(image)


class TextEncoder(Tower):
    """A text tower.

    Args:
        output_dim: width of its features.
        context_length: the most tokens it takes.

    Attributes:
        vocab_size: the number of token ids it embeds; None where it does not say.
    """

    column = "text"
    vocab_size: int | None = None

    def __init__(self, output_dim: int, context_length: int) -> None:
        super().__init__(output_dim)
        self.context_length = context_length

    def grow(self, vocab_size: int, context_length: int) -> None:
        """Takes at least `vocab_size` token ids and `context_length` tokens; those there were keep their embeddings exactly.

        Raises:
            InputError: this tower cannot.
        """
        if (self.vocab_size is not None and vocab_size > self.vocab_size) or context_length > self.context_length:
            raise self._no_growth(vocab_size, context_length)

    def packs(self, tokens: Tensor) -> bool:
        """Whether `forward` takes the captions' lengths as a third argument and then computes no padding of its own accord.

        Such a tower gets a batch whole; for any other it is cut into chunks of like length.
        """
        return False

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> (B, output_dim)."""

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L) -> (B, L, W), where the tower has tokens."""
        raise self._no_tokens()

    def forward_both(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L) and mask bool (B, L) -> features (B, output_dim) and tokens (B, L, W)."""
        return self(tokens, mask), self.forward_tokens(tokens, mask)

    def steps(self) -> Steps | None:
        """Reads texts token by token, ids (R,) -> features (R, 1, W) as `forward_tokens` gives them; None where it cannot."""
        return None


# What a name means that is not registered is said in `names`.
image_encoders: Registry[ImageEncoder] = Registry("image encoder")
text_encoders: Registry[TextEncoder] = Registry("text encoder")
towers: Registry[Tower] = Registry("tower")
