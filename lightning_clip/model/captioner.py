"""`Captioner`: captions of images by a model that has learned to write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.model.caption_logs import caption_decoder, next_logs
from lightning_clip.model.caption_search import beam_search, nucleus_sampling
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.predictor import ImageInput, Predictor

__all__ = ["METHODS", "Captioner"]

METHODS = ("beam", "greedy", "nucleus")


class Captioner:
    """Writes captions.

    Args:
        predictor: of a model with a decoder: trained by `coca` or `captioning`, or opened from open_clip's CoCa.
        method: "beam", "greedy" or "nucleus".
        beams: kept by "beam".
        top_p: share of the probability from which "nucleus" draws, in (0, 1].
        temperature: of "nucleus", > 0.
        max_tokens: of a caption, at most what the text tower takes; None takes that, and at most 30.
        seed: of "nucleus".
        cache: keep keys and values of what is written, so that each step computes its newest token alone; False computes all of
            the caption in each step, with the same captions.

    Raises:
        InputError: a model without a decoder, an unknown method, or a setting out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        method: str = "beam",
        *,
        beams: int = 4,
        top_p: float = 0.9,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        decoder = caption_decoder(predictor.model)
        if decoder is None or predictor.tokenizer is None:
            raise InputError(
                "this model has no decoder that writes captions: train with objective 'coca' or 'captioning', or open CoCa's "
                "weights"
            )
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: {nearest(method, METHODS)}")
        in_range("beams", beams, 1, whole=True)
        in_range("top_p", top_p, 0, 1, open_low=True)
        in_range("temperature", temperature, 0, open_low=True)
        room = predictor.tokenizer.context_length - 2
        max_tokens = min(30, room) if max_tokens is None else max_tokens
        in_range("max_tokens", max_tokens, 1, room, whole=True)
        if not hasattr(predictor.tokenizer, "decode"):
            raise InputError(
                f"tokenizer {type(predictor.tokenizer).__name__} has no decode(), which captions need: add the method"
            )
        self.predictor, self.decoder, self.method = predictor, decoder, method
        self.beams = 1 if method == "greedy" else beams
        self.top_p, self.temperature, self.max_tokens, self.seed = top_p, temperature, max_tokens, seed
        self.cache = cache
        self.start, self.end = predictor.tokenizer.encode([""])[0]

    def __call__(self, images: ImageInput, batch_size: int = 32, first: int = 0) -> list[str]:
        """One caption an image.

        Args:
            images: as `Predictor.encode_image` takes them.
            batch_size: images at a time.
            first: number of the first image, on which what "nucleus" draws depends.
        """
        found: list[str] = []
        tokenizer: Any = self.predictor.tokenizer
        for pixels in self.predictor.pixels(images, batch_size):
            with evaluating(self.predictor.model):
                found += tokenizer.decode(self._ids(pixels, first + len(found)))
        return found

    def _ids(self, pixels: Tensor, before: int) -> list[list[int]]:
        """Ids of the captions of a batch, which begins after so many images."""
        image_tokens = self.predictor.model.encode_with_tokens("image", pixels)[1]  # (B, P, W_i)
        logs = next_logs(self.predictor.model, self.decoder, image_tokens, self.cache)
        if self.method != "nucleus":
            options: Mapping[str, Any] = {"beams": self.beams, "max_tokens": self.max_tokens}
            return beam_search(logs, len(image_tokens), self.start, self.end, **options)
        options = {"top_p": self.top_p, "temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return nucleus_sampling(logs, range(before, before + len(image_tokens)), self.start, self.end, **options)
