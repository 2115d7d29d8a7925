"""Zero-shot classifiers: class names and templates -> one unit vector per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["ClassNames", "template_vectors", "zero_shot_classifier"]

ClassNames = Sequence[str | Sequence[str]]  # one name per class, or several
Encode = Callable[[list[str]], Tensor]


def zero_shot_classifier(
    encode_text: Encode, class_names: ClassNames, templates: str | Sequence[str] = "simple", batch_size: int = 256
) -> Tensor:
    """Text features of each class, averaged over templates in embedding space (Radford et al. 2021, section 3.1.4).

    Column c is normalize(mean over templates t of normalize(encode_text(t with class name c))). A class with several names
    stands in each template as the normalised mean of theirs. Each distinct prompt is encoded once; batches hold prompts of
    similar length, so that little of them is padding.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: C classes, each a name or a list of names; braces in them are left alone.
        templates: a set's name, one template or several, each with {} where the class name goes.
        batch_size: prompts encoded at a time, at least 1.

    Returns:
        (D, C), unit columns, of the dtype and on the device of the features; averaged in float32 or better.

    Raises:
        InputError: no class, a class without a name, an empty class name, a wrong template, or an encoder whose output does
            not fit.

    Examples:
        >>> zero_shot_classifier(lambda texts: torch.ones(len(texts), 4), ["cat", ["dog", "hound"]])
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000],
                [0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    prompts = _encoded(encode_text, class_names, templates, batch_size)
    # Template by template: gathering all at once would hold each prompt's feature twice.
    total = prompts.unit.new_zeros(len(class_names), prompts.unit.shape[1])
    for template in range(len(prompts.rows)):
        total = total + prompts.of_classes(template)
    return normalize(total, dim=-1).T.to(prompts.dtype)  # (C, D) -> (D, C)


def template_vectors(
    encode_text: Encode, class_names: ClassNames, templates: str | Sequence[str] = "simple", batch_size: int = 256
) -> Tensor:
    """What `zero_shot_classifier` averages: unit features (T, C, D) of each template with each class.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: C classes, each a name or a list of names, whose features are averaged and normalised.
        templates: T of them.
        batch_size: prompts encoded at a time, at least 1.

    Raises:
        InputError: as `zero_shot_classifier`.
    """
    prompts = _encoded(encode_text, class_names, templates, batch_size)
    return torch.stack([prompts.of_classes(template) for template in range(len(prompts.rows))]).to(prompts.dtype)


class _Prompts(NamedTuple):
    """Features of prompts.

    Attributes:
        unit: (P, D), of the distinct prompts.
        rows: int64 (T, K), the prompt of each template with each of the K names of all classes.
        sizes: how many names each class has, K in all.
        dtype: of the encoder's features.
    """

    unit: Tensor
    rows: Tensor
    sizes: list[int]
    dtype: torch.dtype

    def of_classes(self, template: int) -> Tensor:
        """Unit features (C, D) of the classes in one template."""
        vectors = self.unit[self.rows[template]]  # (P, D) -> (K, D)
        if len(self.sizes) == len(vectors):
            return vectors
        return normalize(torch.stack([own.mean(dim=0) for own in torch.split(vectors, self.sizes)]), dim=-1)


def _encoded(encode_text: Encode, class_names: ClassNames, templates: str | Sequence[str], batch_size: int) -> _Prompts:
    patterns, names = resolve_templates(templates), _checked_names(class_names)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size} must be at least 1 prompt at a time")
    prompts = [[pattern.replace("{}", name) for of_class in names for name in of_class] for pattern in patterns]
    distinct = sorted({prompt for of_pattern in prompts for prompt in of_pattern}, key=lambda prompt: (len(prompt), prompt))
    batches = [distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size)]
    features = torch.cat([_features(encode_text, batch) for batch in batches])
    unit = normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
    row = {prompt: number for number, prompt in enumerate(distinct)}
    rows = torch.tensor([[row[prompt] for prompt in of_pattern] for of_pattern in prompts], device=unit.device)
    return _Prompts(unit, rows, [len(of_class) for of_class in names], features.dtype)


def _features(encode_text: Encode, prompts: list[str]) -> Tensor:
    features = encode_text(prompts)
    if features.ndim != 2 or len(features) != len(prompts):
        raise InputError(
            f"encode_text gave {tuple(features.shape)} for {len(prompts)} prompts: it must return (B, D) for B strings"
        )
    return features


def _checked_names(class_names: ClassNames) -> list[list[str]]:
    """The names of each class."""
    if isinstance(class_names, str):
        raise InputError(f"class_names {class_names!r} is one string: give a list, [{class_names!r}, ...]")
    if len(class_names) == 0:
        raise InputError("class_names is empty: give one name per class")
    found = []
    for number, given in enumerate(class_names):
        names: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
        if not names:
            raise InputError(f"class {number} has no name: give at least one")
        for name in names:
            _check_name(number, name)
        found.append(names)
    return found


def _check_name(number: int, name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"class name {number} is {name!r}, not a string: give the names, not class numbers")
    if not name.strip():
        raise InputError(f"class name {number} is empty: give each class a name")
