"""The filter by what a model sees in a picture, such as nudity or faces: words for what goes against words for what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.curation.filters.base import Looked, pair_filters
from lightning_clip.curation.filters.of_model import ModelFilter

__all__ = ["CONCEPTS", "Concept"]

# Name -> what goes. A concept of your own: CONCEPTS["logos"] = ["a logo", "a watermark"]
CONCEPTS: dict[str, list[str]] = {
    "nsfw": [
        "a photo of a naked person",
        "a pornographic picture",
        "a photo of people having sex",
        "a picture of genitals",
        "a photo with blood and gore",
    ],
    "faces": [
        "a close-up photo of a person's face",
        "a portrait of a person",
        "a selfie",
        "a photo of people who look into the camera",
    ],
}
_OTHERWISE = [
    "a photo of an object",
    "a photo of a landscape",
    "a photo of a building",
    "a photo of an animal",
    "a photo of food",
    "a photo of dressed people seen from afar",
    "a drawing",
    "a page of text",
]


@pair_filters.register("concept")
class Concept(ModelFilter):
    """Pairs whose picture shows a concept with at most this probability, by the prompts of any checkpoint.

    The probability is that of all prompts of the concept together in a softmax over these and those of `otherwise`, of what the
    model's objective scores by. It is as good as the model and its words: look at what is dropped, and at what stays, before
    you rely on it.

    Args:
        checkpoint: of ours, or published weights: `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder or a file.
        concept: a name of `CONCEPTS`, "nsfw" or "faces", or a list of prompts of your own.
        otherwise: prompts for what else a picture may be; None takes eight of everyday things.
        most: probability in [0, 1].
        batch_size: images at a time; probabilities are rounded to 4 decimals, so that its rounding decides nothing.
        device: "auto" takes a GPU if there is one.

    Raises:
        InputError: no such checkpoint or concept, an empty list, or a probability out of range.
    """

    def __init__(
        self,
        checkpoint: str,
        concept: str | Sequence[str] = "nsfw",
        otherwise: Sequence[str] | None = None,
        most: float = 0.5,
        batch_size: int = 64,
        device: str = "auto",
    ) -> None:
        in_range("filter concept: most", most, 0, 1)
        if isinstance(concept, str) and concept not in CONCEPTS:
            raise InputError(f"filter concept knows no {concept!r}: {nearest(concept, CONCEPTS)}, or give prompts")
        self.prompts = list(CONCEPTS[concept] if isinstance(concept, str) else concept)
        self.otherwise = list(_OTHERWISE if otherwise is None else otherwise)
        if not self.prompts or not self.otherwise:
            raise InputError("filter concept needs at least one prompt for the concept and one for what else there is")
        super().__init__(checkpoint, batch_size, device)
        self.most = most
        self._scorer: Callable[[Any], Tensor] | None = None
        self.reason = f"{concept if isinstance(concept, str) else self.prompts[0]}: probability above {most:g}"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_scorer": None}

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        return [share <= self.most for part in self.batches(samples) for share in self.probabilities(part)]

    def probabilities(self, samples: Sequence[Looked]) -> list[float]:
        """Of the concept in each picture, in [0, 1].

        Args:
            samples: whose pictures are looked at.
        """
        predictor = self.module().predictor
        pixels = torch.stack([predictor.transform(sample.pixels) for sample in samples])  # (B, 3, S, S)
        self._scorer = self._scorer or predictor.scorer([*self.prompts, *self.otherwise], ["{}"])
        shares = torch.softmax(self._scorer(pixels).float(), dim=1)[:, : len(self.prompts)].sum(dim=1)
        return [round(share, 4) for share in shares.tolist()]
