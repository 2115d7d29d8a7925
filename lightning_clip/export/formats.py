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
        usage: Python that reads the folder, for the model card; {folder} is put in.
    """

    title: str
    tolerance = 1e-5
    holds_scorers = False
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
        image, text = self.features(module, folder, pixels, texts)
        expected = module.predictor.encode_image(pixels), module.predictor.encode_text(texts)
        return {"image": largest_difference(image, expected[0]), "text": largest_difference(text, expected[1])}

    @abstractmethod
    def features(self, module: Exportable, folder: Path, pixels: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit features of uint8 pixels (B, 3, S, S) and texts, by the format's library, from the files alone.

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
    able = [other for other in formats.names() if other != name and formats.build(other).reason(module) is None]
    return InputError(
        f"format {name!r} cannot hold this model exactly: {reason}. Formats that can: {', '.join(able) or 'none'}"
    )
