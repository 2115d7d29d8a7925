"""Padding of token ids: where texts end, and rows that are padded on the other side.

Inside the library every row is padded on the right, so that it can be cut to its length. A tower that attends to its padding
(SigLIP's) may have been trained with the padding in front: it moves the rows itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_clip.core.errors import InputError, nearest

__all__ = ["SIDES", "checked_side", "filled", "right_padded", "side_mapping", "text_in_front"]

SIDES = ("right", "left")


def checked_side(side: str) -> str:
    """The side.

    Raises:
        InputError: it is none.
    """
    if side not in SIDES:
        raise InputError(f"unknown padding_side {side!r}: {nearest(side, SIDES)}")
    return side


def side_mapping(side: str) -> dict[str, str]:
    """A setting of towers and tokenizers that pad on the left; nothing for the usual side."""
    return {} if side == "right" else {"padding_side": side}


def right_padded(tokens: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids with the text in front, and their mask bool (B, L), True up to the last id that is not padding.

    A row that begins with padding is taken to be padded on the left, and all that follows is text. The id of padding may also
    occur inside a text, and CLIP's does.

    Args:
        tokens: int64 (B, L), padded on either side.
        pad_id: of padding.

    Examples:
        >>> rows, mask = right_padded(torch.tensor([[5, 0, 6, 0], [0, 0, 7, 8]]), pad_id=0)
        >>> rows.tolist(), mask.sum(dim=1).tolist()
        ([[5, 0, 6, 0], [7, 8, 0, 0]], [3, 2])
    """
    text = tokens != pad_id  # (B, L)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    before = (text.cumsum(dim=1) == 0).sum(dim=1)  # (B, L) -> (B,) ids of padding in front
    before = torch.where(before < tokens.shape[1], before, 0)  # a row of padding alone is an empty text
    last = (text * (places + 1)).amax(dim=1)  # (B, L) -> (B,)
    lengths = torch.where(before > 0, tokens.shape[1] - before, last)
    rolled = tokens.gather(1, (places + before[:, None]) % tokens.shape[1])
    return rolled, places < lengths[:, None]


def filled(tokens: Tensor, mask: Tensor, length: int, pad_id: int, side: str = "right") -> Tensor:
    """Rows of the full length (B, length), padded with `pad_id` on one side.

    Args:
        tokens: int64 (B, L), the text in front.
        mask: bool (B, L), True on text.
        length: at least L.
        pad_id: of padding.
        side: "right" or "left".

    Examples:
        >>> tokens, mask = torch.tensor([[5, 6, 9]]), torch.tensor([[True, True, False]])
        >>> filled(tokens, mask, 4, pad_id=1).tolist(), filled(tokens, mask, 4, pad_id=1, side="left").tolist()
        ([[5, 6, 1, 1]], [[1, 1, 5, 6]])
    """
    rows = pad(tokens.masked_fill(~mask, pad_id), (0, length - tokens.shape[1]), value=pad_id)  # (B, L) -> (B, length)
    if side == "right":
        return rows
    places = torch.arange(length, device=tokens.device)
    return rows.gather(1, (places + mask.sum(dim=1)[:, None]) % length)


def text_in_front(hidden: Tensor, mask: Tensor, side: str) -> Tensor:
    """What a tower made of rows from `filled`, each row's text in front again: (B, length, W).

    Args:
        hidden: (B, length, W).
        mask: bool (B, L) that `filled` was given.
        side: likewise.
    """
    if side == "right":
        return hidden
    places = torch.arange(hidden.shape[1], device=hidden.device)
    rows = (places - mask.sum(dim=1)[:, None]) % hidden.shape[1]  # (B, length)
    return hidden.gather(1, rows[..., None].expand_as(hidden))
