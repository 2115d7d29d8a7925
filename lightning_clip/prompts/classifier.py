"""Zero-shot classifiers: class names and templates arrive, one unit vector per class leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["template_vectors", "zero_shot_classifier"]


def zero_shot_classifier(
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: str | Sequence[str] = "simple",
    batch_size: int = 256,
) -> Tensor:
    """Text features of each class, averaged over templates in embedding space (Radford et al. 2021, section 3.1.4).

    Column c is normalize(mean over templates t of normalize(encode_text(t with class name c))). Each distinct prompt is
    encoded once; batches hold prompts of similar length, so that little of them is padding.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: one name per class; braces in them are left alone.
        templates: a set's name, one template or several, each with {} where the class name goes.
        batch_size: prompts encoded at a time, at least 1.

    Returns:
        (D, num_classes), unit columns, of the dtype and on the device of the features; averaged in float32 or better.

    Raises:
        InputError: no class, an empty class name, a wrong template, or an encoder whose output does not
            fit.

    Examples:
        >>> zero_shot_classifier(lambda texts: torch.ones(len(texts), 4), ["cat", "dog"])
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000],
                [0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    unit, rows, dtype = _prompt_features(encode_text, class_names, templates, batch_size)
    # Template by template: gathering all at once would hold each prompt's feature twice.
    total = unit.new_zeros(len(class_names), unit.shape[1])
    for of_pattern in rows:
        total = total + unit[of_pattern]
    return normalize(total, dim=-1).T.to(dtype)


def template_vectors(
    encode_text: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: str | Sequence[str] = "simple",
    batch_size: int = 256,
) -> Tensor:
    """What `zero_shot_classifier` averages: unit features (T, C, D) of each template with each class name.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: C names, all different.
        templates: T of them.
        batch_size: prompts encoded at a time, at least 1.

    Raises:
        InputError: what `zero_shot_classifier` refuses.
    """
    unit, rows, dtype = _prompt_features(encode_text, class_names, templates, batch_size)
    return unit[rows].to(dtype)


def _prompt_features(
    encode_text: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: str | Sequence[str], batch_size: int
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Unit features of the distinct prompts, the row of each template's prompts (T, C), and the encoder's dtype."""
    patterns = resolve_templates(templates)
    _check_names(class_names)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size} must be at least 1 prompt at a time")
    prompts = [[pattern.replace("{}", name) for name in class_names] for pattern in patterns]
    distinct = sorted({prompt for of_pattern in prompts for prompt in of_pattern}, key=lambda prompt: (len(prompt), prompt))
    batches = [distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size)]
    features = torch.cat([_encode(encode_text, batch) for batch in batches])
    unit = normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
    row = {prompt: number for number, prompt in enumerate(distinct)}
    rows = torch.tensor([[row[prompt] for prompt in of_pattern] for of_pattern in prompts], device=unit.device)
    return unit, rows, features.dtype


def _encode(encode_text: Callable[[list[str]], Tensor], prompts: list[str]) -> Tensor:
    features = encode_text(prompts)
    if features.ndim != 2 or len(features) != len(prompts):
        raise InputError(
            f"encode_text gave {tuple(features.shape)} for {len(prompts)} prompts: it must return (B, D) for B strings"
        )
    return features


def _check_names(class_names: Sequence[str]) -> None:
    if isinstance(class_names, str):
        raise InputError(f"class_names {class_names!r} is one string: give a list, [{class_names!r}, ...]")
    if len(class_names) == 0:
        raise InputError("class_names is empty: give one name per class")
    for number, name in enumerate(class_names):
        if not isinstance(name, str):
            raise InputError(f"class name {number} is {name!r}, not a string: give the names, not class numbers")
        if not name.strip():
            raise InputError(f"class name {number} is empty: give each class a name")
