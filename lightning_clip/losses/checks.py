"""Checks of features and ids before a loss: what is wrong on one rank is raised on all of them, and none is left waiting."""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_clip.core.distributed import agree, world
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.losses.exchange import Alone, Exchange, Gather, Ring

__all__ = ["Positives", "check_exchange", "check_features", "open_exchange", "problem_of_ids"]

# Ids of pairs, or those of images and those of texts.
Positives: TypeAlias = Tensor | tuple[Tensor, Tensor]

_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_UNKNOWN = -1.0  # no norm
_FORMS = ("none", "(B, 1)", "(B, 2)", "((N, 1), (M, 1))", "((N, 2), (M, 2))")


def check_exchange(kind: str) -> str:
    """Hands back "gather" or "ring".

    Raises:
        InputError: another word.
    """
    if kind not in ("gather", "ring"):
        raise InputError(f"unknown exchange {kind!r}: {nearest(kind, ('gather', 'ring'))}")
    return kind


def check_features(
    image_features: Tensor, text_features: Tensor, check_finite: bool = True, positives: Positives | None = None
) -> None:
    """Checks that features can be pairs, and that ids fit them.

    Args:
        image_features: (N, D).
        text_features: (M, D), with M = N unless `positives` are ids of images and texts.
        check_finite: whether to look for NaN.
        positives: int64 (N,) or (N, K), or those of images and of texts (M,) or (M, K).

    Raises:
        InputError: shapes, types or devices differ, they are not (B, D), hold no pair, or hold infinities or NaN (looked
            for on the CPU only: on an accelerator it would wait for the device, see `ExecutionSettings.non_finite`).
    """
    problem = _problem(image_features, text_features, check_finite, positives)
    if problem:
        raise InputError(problem)


def open_exchange(
    image_features: Tensor,
    text_features: Tensor,
    kind: str,
    *,
    positives: Positives | None = None,
    alone: bool = False,
    check_finite: bool = True,
    norms: bool = False,
) -> Exchange:
    """Checks the features of all ranks and says how they meet; what is wrong on one rank is raised on all of them.

    Args:
        image_features: (N, D) of this rank.
        text_features: (M, D) of this rank, with M = N unless there are ids of images and texts; ranks may bring different N.
        kind: "gather" or "ring".
        positives: int64 (N,) or (N, K), or those of images and of texts (M,) or (M, K).
        alone: this rank by itself, as in evaluation.
        check_finite: whether to look for NaN.
        norms: whether the ranks tell each other the largest norms of their features, too; on CPUs alone, since on an
            accelerator it would wait for the device.

    Raises:
        InputError: see `check_features`, or ranks whose width, type or kind of ids differ.
    """
    rank, world_size = world()
    if alone or world_size == 1:
        check_features(image_features, text_features, check_finite, positives)
        return Alone(len(text_features), len(image_features))
    problem = _problem(image_features, text_features, check_finite, positives)
    header = [0] * 7  # of a faulty rank, whose numbers nobody looks at
    if problem is None:
        sizes = [len(image_features), len(text_features), image_features.shape[1]]
        longest = _longest(image_features, text_features) if norms else [_UNKNOWN, _UNKNOWN]
        header = [*sizes, _TYPES.index(image_features.dtype), _FORMS.index(_form(positives)), *map(_bits, longest)]
    headers = agree(problem, header, image_features.device)
    _check_alike(headers)
    rows, columns = [found[0] for found in headers], [found[1] for found in headers]
    told = [max(_number(found[place]) for found in headers) for place in (5, 6)]
    known = None if _UNKNOWN in told else (told[0], told[1])
    return (Ring if kind == "ring" else Gather)(columns, rank, rows, known)


def _longest(*features: Tensor) -> list[float]:
    """The largest norm of a row of each, in float32 or better."""
    if features[0].device.type != "cpu":
        return [_UNKNOWN] * len(features)
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    return [float(value.detach().norm(dim=1, dtype=dtype).amax()) for value in features]


def _bits(value: float) -> int:
    """A number as an int64 of the same bits: headers hold whole numbers."""
    return int.from_bytes(struct.pack("<d", value), "little", signed=True)


def _number(bits: int) -> float:
    return float(struct.unpack("<d", bits.to_bytes(8, "little", signed=True))[0])


def _check_alike(headers: list[list[int]]) -> None:
    """Of each rank its images and texts, which may differ, and width, type and form of ids, which may not."""
    features = [f"rank {rank} (B, {found[2]}) {_TYPES[found[3]]}" for rank, found in enumerate(headers)]
    if len({tuple(found[2:4]) for found in headers}) > 1:
        raise InputError(
            f"the ranks' features differ in width or type: {', '.join(features)}. Build the same model on every rank."
        )
    forms = [f"rank {rank} {_FORMS[found[4]]}" for rank, found in enumerate(headers)]
    if len({found[4] for found in headers}) > 1:
        raise InputError(f"positives differ between ranks: {', '.join(forms)}. Give every rank the same kind of ids.")


def _form(positives: Positives | None) -> str:
    """Of ids without fault, (B,) counting as (B, 1)."""
    if positives is None:
        return "none"
    first = positives if isinstance(positives, Tensor) else positives[0]
    columns = first.shape[1] if first.ndim == 2 else 1
    return f"(B, {columns})" if isinstance(positives, Tensor) else f"((N, {columns}), (M, {columns}))"


def _problem(
    image_features: Tensor, text_features: Tensor, check_finite: bool, positives: Positives | None = None
) -> str | None:
    problem = _problem_of_shapes(image_features, text_features, by_ids=isinstance(positives, tuple | list))
    if problem:
        return problem
    if image_features.device != text_features.device:
        return f"image_features are on {image_features.device}, text_features on {text_features.device}: move one of them"
    if image_features.dtype != text_features.dtype or image_features.dtype not in _TYPES:
        types = f"image_features are {image_features.dtype}, text_features {text_features.dtype}"
        return f"{types}: both must have the same type, one of {', '.join(map(str, _TYPES))}"
    for name, features in (("image_features", image_features), ("text_features", text_features)):
        # The sum is finite unless a value is not: one pass, nothing stored.
        if check_finite and features.device.type == "cpu" and not features.detach().sum(dtype=torch.float32).isfinite():
            bad = int((~features.detach().isfinite()).any(dim=1).sum())
            return (
                f"{name} {tuple(features.shape)} hold NaN or infinity in {bad} rows: lower the learning rate, clip gradients "
                "(trainer.gradient_clip_val), or set execution.non_finite to 'skip'"
            )
    return problem_of_ids(positives, len(image_features), len(text_features), image_features.device)


def _problem_of_shapes(image_features: Tensor, text_features: Tensor, by_ids: bool) -> str | None:
    shapes = f"image_features {tuple(image_features.shape)} and text_features {tuple(text_features.shape)}"
    if image_features.ndim != 2 or text_features.ndim != 2:
        return f"{shapes} must both be (B, D)"
    if image_features.shape[1] != text_features.shape[1]:
        return f"{shapes} differ in width: give both projections the same embed_dim"
    if len(image_features) != len(text_features) and not by_ids:
        return (
            f"{shapes} are not pairs: row i of one must belong to row i of the other; N images and M texts need "
            "positives=(image_ids, text_ids)"
        )
    if min(len(image_features), len(text_features)) == 0:
        return f"{shapes} hold no pair"
    return None


def problem_of_ids(positives: Any, images: int, texts: int, device: torch.device) -> str | None:
    """What is wrong with the ids of pairs, or with those of images and texts; None where nothing is.

    Args:
        positives: None, int64 (N,) or (N, K), or two of them, (N,) or (N, K) and (M,) or (M, K); K is 1 or 2.
        images: N.
        texts: M.
        device: of the features.
    """
    if positives is None:
        return None
    if isinstance(positives, Tensor):
        return _problem_of_side("positives", positives, images, device)
    if not isinstance(positives, tuple | list) or len(positives) != 2:
        kind = f"{len(positives)} of them" if isinstance(positives, tuple | list) else type(positives).__name__
        return f"positives must be a tensor of ids, or the two tensors (image_ids, text_ids), got {kind}"
    for name, ids, rows in zip(("image_ids", "text_ids"), positives, (images, texts), strict=True):
        if problem := _problem_of_side(f"positives: {name}", ids, rows, device):
            return problem
    first, second = positives
    if first.ndim != second.ndim or first.shape[1:] != second.shape[1:]:
        shapes = f"image_ids {tuple(first.shape)} and text_ids {tuple(second.shape)}"
        return f"positives: {shapes} must have the same number of ids a row"
    return None


def _problem_of_side(name: str, ids: Any, rows: int, device: torch.device) -> str | None:
    if not isinstance(ids, Tensor):
        return f"{name} must be a tensor, int64 ({rows},) or ({rows}, K) with K <= 2, got {type(ids).__name__}"
    right = ids.dtype == torch.long and ids.ndim in (1, 2) and len(ids) == rows and ids.shape[1:] in ((), (1,), (2,))
    if not right:
        return f"{name} must be int64 ({rows},) or ({rows}, K) with K <= 2, one id a row, got {ids.dtype} {tuple(ids.shape)}"
    if ids.device != device:
        return f"{name} are on {ids.device}, the features on {device}: move one of them"
    return None
