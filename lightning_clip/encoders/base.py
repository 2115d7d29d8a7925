"""The encoder seam: pixels or tokens arrive, one feature vector per sample leaves, before any projection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry

__all__ = ["ImageEncoder", "TextEncoder", "image_encoders", "text_encoders"]


class _Encoder(nn.Module, ABC):
    """What both towers share."""

    def __init__(self, output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim

    def blocks(self) -> list[nn.Module]:
        """The repeated layers in order, first to last; sharding, checkpointing and freezing by depth ask for them."""
        return []

    def checkpoint_blocks(self) -> None:
        """From now on the blocks keep no activations in training and compute them again in backward.

        Raises:
            InputError: this tower cannot.
        """
        raise InputError(f"{type(self).__name__} cannot checkpoint its activations: leave it out of execution.checkpoint")

    def to_mapping(self) -> dict[str, Any] | None:
        """A plain mapping that builds this encoder again with no file at hand, or None to use the user's own spec."""
        return None

    def _no_tokens(self) -> InputError:
        return InputError(f"{type(self).__name__} gives one vector per sample and has no token output")


class ImageEncoder(_Encoder):
    """An image tower.

    Args:
        output_dim: width of its features.
        image_size: side in pixels of the square images it takes.
    """

    def __init__(self, output_dim: int, image_size: int) -> None:
        super().__init__(output_dim)
        self.image_size = image_size

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, H, W) -> (B, output_dim)."""

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, H, W) -> (B, L, output_dim), where the tower has tokens."""
        raise self._no_tokens()


class TextEncoder(_Encoder):
    """A text tower.

    Args:
        output_dim: width of its features.
        context_length: the most tokens it takes.
    """

    def __init__(self, output_dim: int, context_length: int) -> None:
        super().__init__(output_dim)
        self.context_length = context_length

    def grow(self, vocab_size: int, context_length: int) -> None:
        """Takes as many tokens of as many kinds at least; what is there already keeps its embeddings exactly.

        New ones begin as a function of the old ones, without a draw, so that growing again gives the same.

        Raises:
            InputError: this tower cannot.
        """
        if vocab_size > (getattr(self, "vocab_size", None) or vocab_size) or context_length > self.context_length:
            raise InputError(
                f"{type(self).__name__} cannot be grown to {vocab_size} tokens and a context of {context_length}: leave "
                "new_tokens and context_length out of adapt.text"
            )

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), True on text -> (B, output_dim)."""

    def forward_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L) -> (B, L, output_dim), where the tower has tokens."""
        raise self._no_tokens()

    def token_table(self) -> nn.Module:
        """The table of token vectors, through which all tokens pass: learned prompts take their place behind it, new tokens of
        a tower that is still get rows beside it.

        Raises:
            InputError: this tower has none.
        """
        raise InputError(
            f"{type(self).__name__} has no token_table(), which learned prompts need, and new tokens in a locked tower: add "
            "the method"
        )


# Names that are not registered are looked up in timm (images) and behind "hf:" (texts) by the fallbacks set there.
image_encoders: Registry[ImageEncoder] = Registry("image encoder")
text_encoders: Registry[TextEncoder] = Registry("text encoder")
