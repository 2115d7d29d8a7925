"""Log-probabilities of a caption's next token, by each decoder that writes captions, with a cache or without."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_clip.core.types import Tokens
from lightning_clip.encoders.caption_decoder import CaptionDecoder
from lightning_clip.encoders.steps import Steps
from lightning_clip.encoders.text_decoder import TextDecoder
from lightning_clip.model.caption_search import NextLogs
from lightning_clip.model.space import SharedSpace

__all__ = ["caption_decoder", "next_logs"]

Decoder = CaptionDecoder | TextDecoder


def caption_decoder(space: SharedSpace) -> Decoder | None:
    """The first decoder that an objective has added to a model and that writes captions from their beginning.

    Args:
        space: the model.
    """
    return next((part for part in space.parts().values() if isinstance(part, CaptionDecoder | TextDecoder)), None)


def next_logs(space: SharedSpace, decoder: Decoder, image_tokens: Tensor, cache: bool = True) -> NextLogs:
    """What beam search and nucleus sampling ask, for one batch of images.

    With a cache each call computes the newest ids alone, so that calls must go on from one another.

    Args:
        space: the model.
        decoder: of it.
        image_tokens: of N images (N, P, W_i).
        cache: False computes all ids in each call, as do a tower and a decoder without steps.
    """
    if isinstance(decoder, TextDecoder):
        steps = decoder.steps(image_tokens) if cache else None
        logits = _whole(decoder, image_tokens) if steps is None else _newest(steps)
    else:
        logits = _of_both_towers(space, decoder, image_tokens, cache)

    def logs(rows: Tensor, ids: Tensor, came_from: Tensor | None) -> Tensor:
        where = image_tokens.device
        found = logits(rows.to(where), ids.to(where), None if came_from is None else came_from.to(where))  # (R, V)
        return found.float().log_softmax(dim=-1)

    return logs


def _newest(steps: Steps) -> NextLogs:
    """Steps of the last ids alone."""
    return lambda rows, ids, came_from: steps(ids[:, -1], came_from)


def _whole(decoder: TextDecoder, image_tokens: Tensor) -> NextLogs:
    return lambda rows, ids, came_from: decoder.logits(image_tokens[rows], ids)[:, -1]


def _of_both_towers(space: SharedSpace, decoder: CaptionDecoder, image_tokens: Tensor, cache: bool) -> NextLogs:
    """A decoder that takes on the text tower's tokens; either may have steps, or compute all ids in each call."""
    seen = decoder.read(image_tokens)  # (N, P, W_i) -> (N, Q, W)
    read: Steps | None = space.tower("text").steps() if cache else None
    write = decoder.steps(seen) if cache else None

    def logits(rows: Tensor, ids: Tensor, came_from: Tensor | None) -> Tensor:
        if read is not None and write is not None:
            return write(read(ids[:, -1], came_from), came_from)
        tokens = space.encode_with_tokens("text", Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))[1]  # (R, L, W_t)
        if write is not None:
            return write(tokens[:, -1:], came_from)
        found: Tensor = decoder(seen[rows], tokens)[:, -1]
        return found

    return logits
