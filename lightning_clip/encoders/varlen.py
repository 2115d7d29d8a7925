"""Captions packed end to end on a GPU: attention by where each begins, as torch's and flash-attn's kernels take it.

In half precision on CUDA these kernels look up each caption's keys themselves, so that nothing is padded and nothing copied:
`torch.nn.attention.varlen`, or the package flash-attn where it is installed. Captions keep their order, and what they share at
their beginnings is computed for each.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_clip.encoders.chunks import places_on

__all__ = ["Strung", "attend_each", "attend_last", "string", "usable"]

log = logging.getLogger(__name__)

# Queries (T, H, D), keys and values, where each caption's queries and keys begin, the most of either, whether causal.
_Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool], Tensor]


class _Kernels:
    """What attention is computed by, once it was tried: not looked for in the midst of a block that is being compiled."""

    attend: _Attention


kernels = _Kernels()


class Strung(NamedTuple):
    """Where the tokens of a batch stand one after the other.

    Args:
        tokens: int64 (U,), where each one stands in the flattened batch (B * L).
        positions: int64 (U,), of each in its caption.
        begins: int32 (B + 1,), where each caption begins, and the end.
        ends: int64 (B,), of each caption's last token.
        longest: no caption has more tokens.
    """

    tokens: Tensor
    positions: Tensor
    begins: Tensor
    ends: Tensor
    longest: int


def string(tokens: Tensor, lengths: Sequence[int], longest: int) -> Strung:
    """How a batch is strung together; nothing waits for the device.

    Args:
        tokens: int64 (B, L).
        lengths: of B >= 1 captions; one without a token is read at its first.
        longest: a bound of all lengths, the same for all batches, as kernels are compiled for it.

    Examples:
        >>> found = string(torch.tensor([[7, 5, 9], [7, 9, 0]]), [3, 2], longest=77)
        >>> found.tokens.tolist(), found.begins.tolist(), found.ends.tolist()
        ([0, 1, 2, 3, 4], [0, 3, 5], [2, 4])
    """
    counts = [max(1, length) for length in lengths]
    count = places_on(counts, tokens.device)  # (B,)
    ends = count.cumsum(0)
    caption = torch.repeat_interleave(torch.arange(len(counts), device=tokens.device), count, output_size=sum(counts))  # (U,)
    positions = torch.arange(sum(counts), device=tokens.device) - (ends - count)[caption]
    begins = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return Strung(caption * tokens.shape[1] + positions, positions, begins, ends - 1, longest)


def usable(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether attention by beginnings runs here; tried once for each kind, and said in one line where it does not.

    Args:
        device: of the tokens.
        dtype: in which queries and keys are multiplied.
        head_dim: D of a head.
    """
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and _runs(device, dtype, head_dim)


def attend_each(qkv: Tensor, strung: Strung) -> Tensor:
    """Causal attention of each caption to itself alone.

    Args:
        qkv: queries, keys and values (U, 3, H, D).
        strung: where they stand.

    Returns:
        (U, H, D).
    """
    query, key, value = qkv.unbind(1)
    return kernels.attend(query, key, value, strung.begins, strung.begins, strung.longest, strung.longest, True)


def attend_last(query: Tensor, key_value: Tensor, strung: Strung) -> Tensor:
    """Attention of each caption's last token to all of its tokens.

    Args:
        query: of the last tokens (B, H, D).
        key_value: of all tokens (U, 2, H, D).
        strung: where they stand.

    Returns:
        (B, H, D).
    """
    key, value = key_value.unbind(1)
    ones = torch.arange(len(query) + 1, device=query.device, dtype=torch.int32)
    return kernels.attend(query, key, value, ones, strung.begins, 1, strung.longest, False)


@functools.cache
def _runs(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    try:
        kernels.attend = _found()
        with torch.inference_mode(False), torch.enable_grad():
            qkv = torch.ones(16, 3, 2, head_dim, device=device, dtype=dtype, requires_grad=True)
            strung = string(torch.zeros(2, 8, device=device, dtype=torch.int64), [8, 8], 8)
            last = attend_last(qkv[strung.ends, 0], qkv[:, 1:], strung)
            (attend_each(qkv, strung).sum() + last.sum()).backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a driver, a card or an older version lacks: chunks need none of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("captions are padded in chunks, not packed, on %s: %s", device, reason)
        return False
    return True


def _found() -> _Attention:
    """The kernels there are, torch's own first."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        return _torchs(varlen_attn)
    return _flash_attns()


def _torchs(attend: Callable[..., Any]) -> _Attention:
    """torch's, whose word for causal changed with its versions."""
    windows = "window_size" in inspect.signature(attend).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if windows else {"is_causal": True}

    def attention(*values: Any) -> Tensor:
        *operands, is_causal = values
        found: Tensor = attend(*operands, **(causal if is_causal else {}))
        return found

    return attention


def _flash_attns() -> _Attention:
    """Of the package flash-attn."""
    from flash_attn import flash_attn_varlen_func

    def attention(*values: Any) -> Tensor:
        *operands, is_causal = values
        found: Tensor = flash_attn_varlen_func(*operands, causal=is_causal)
        return found

    return attention
