"""The interface of export formats: how files are written and how they are read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.export.interface import Exportable
from lightning_clip.weights.towers import NotHeld

__all__ = ["Format", "formats", "largest_difference", "reason_not", "refusal"]


class Format(ABC):
    """One format.

    Attributes:
        title: as it reads in a sentence.
        tolerance: the largest difference of unit features that reading back may show.
        holds_scorers: whether it holds what an objective scores by, such as a layer over words.
        tags: of the model card, by which the hub finds it.
        usage: Python that reads the folder, for the model card; {folder} is put in.
    """

    title: str
    tolerance = 1e-5
    holds_scorers = False
    tags: Sequence[str] = ("clip", "image-text", "zero-shot-image-classification", "lightning_clip")
    usage: str

    @abstractmethod
    def reason(self, module: Exportable) -> str | None:
        """Why this format cannot hold the module exactly, or None if it can."""

    def holds(self, part: str) -> bool:
        """Whether it holds what an objective says to keep beside the towers, such as a decoder.

        Args:
            part: name of it in the model.
        """
        return False

    def columns(self, module: Exportable) -> Sequence[str]:
        """Columns of the towers that it holds; all of them, unless a format is for one tower alone."""
        return tuple(module.model.columns)

    @abstractmethod
    def write(self, module: Exportable, folder: Path) -> None:
        """Writes everything but the model card."""

    def differences(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, float]:
        """By column, how far what the format's library reads is from the module, at most.

        Args:
            module: what was written.
            folder: where it was written.
            pixels: uint8 (B, 3, S, S).
            texts: any.
        """
        found = self.features(module, folder, pixels, texts)
        encode = {"image": lambda: module.predictor.encode_image(pixels), "text": lambda: module.predictor.encode_text(texts)}
        return {column: largest_difference(features, encode[column]()) for column, features in found.items()}

    @abstractmethod
    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit features (B, D) of uint8 pixels (B, 3, S, S) as "image" and (N, D) of N texts as "text", by the format's
        library, from the files alone.

        The module only tells how its own preprocessing goes where the format has none.
        """

    def moved(self, folder: Path, target: Path) -> None:
        """Called when the files are complete, before the folder gets its name."""
        return None

    def notes(self, module: Exportable) -> list[str]:
        """What the format says a little differently, for the model card."""
        return []


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Of two tensors of one shape, in absolute numbers."""
    return float((found.float() - expected.float()).abs().max())


def reason_not(check: Callable[[], object]) -> str | None:
    """Why a conversion says that a library has no such towers, or None; `check` is called for its `NotHeld`."""
    try:
        check()
    except NotHeld as reason:
        return str(reason)
    return None


formats: Registry[Format] = Registry("export format")


def refusal(name: str, module: Exportable) -> InputError | None:
    """The error that says why a format cannot hold a module and which formats can, or None."""
    reason = formats.build(name).reason(module)
    if reason is None:
        return None
    able = [other for other in formats.names() if other != name and _holds_all(formats.build(other), module)]
    return InputError(
        f"format {name!r} cannot hold this model exactly: {reason}. Formats that can: {', '.join(able) or 'none'}"
    )


def _holds_all(writer: Format, module: Exportable) -> bool:
    """Whether a format holds all towers of a module, exactly."""
    return set(writer.columns(module)) == set(module.model.columns) and writer.reason(module) is None
