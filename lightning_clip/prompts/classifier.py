"""Zero-shot classifiers: class names and templates -> one unit vector per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["ClassNames", "names_of_classes", "template_vectors", "zero_shot_classifier"]

ClassNames = Sequence[str | Sequence[str]]  # one name per class, or several
Encode = Callable[[list[str]], Tensor]
# Prompts held at a time: enough that batches of equal length are full, and 25 MB of features of width 768.
_WINDOW = 8192


def zero_shot_classifier(
    encode_text: Encode,
    class_names: ClassNames,
    templates: str | Sequence[str] = "simple",
    batch_size: int = 256,
    *,
    window: int = _WINDOW,
) -> Tensor:
    """Text features of each class, averaged over templates in embedding space (Radford et al. 2021, section 3.1.4).

    Column c is normalize(mean over templates t of normalize(encode_text(t with class name c))). A class with several names
    stands in each template as the normalised mean of theirs. Prompts are made, encoded and summed a window at a time, so that
    memory does not grow with classes times templates. In a window each distinct prompt is encoded once, in batches of similar
    length, so that little of them is padding.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: C classes, each a name or a list of names; braces in them are left alone.
        templates: a set's name, one template or several, each with {} where the class name goes.
        batch_size: prompts encoded at a time, at least 1.
        window: prompts held at a time, at least 1; more only where one class has more names.

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
    patterns, names = resolve_templates(templates), names_of_classes(class_names)
    _check_counts(batch_size, window)
    columns, dtype = [], torch.float32
    for classes in _chunks(names, max(1, window // len(patterns))):
        total: Tensor | float = 0.0
        for part in _template_parts(patterns, classes, window):
            vectors, dtype = _window_vectors(encode_text, classes, part, batch_size)  # (T', C', D)
            total = total + vectors.sum(dim=0)  # (T', C', D) -> (C', D)
        assert isinstance(total, Tensor)
        columns.append(normalize(total, dim=-1).to(dtype))
    return torch.cat(columns).T  # (C, D) -> (D, C)


def template_vectors(
    encode_text: Encode,
    class_names: ClassNames,
    templates: str | Sequence[str] = "simple",
    batch_size: int = 256,
    *,
    window: int = _WINDOW,
) -> Tensor:
    """What `zero_shot_classifier` averages: unit features (T, C, D) of each template with each class.

    Args:
        encode_text: strings -> features (B, D), of any length.
        class_names: C classes, each a name or a list of names, whose features are averaged and normalised.
        templates: T of them.
        batch_size: prompts encoded at a time, at least 1.
        window: prompts held at a time, at least 1; more only where one class has more names.

    Raises:
        InputError: as `zero_shot_classifier`.
    """
    patterns, names = resolve_templates(templates), names_of_classes(class_names)
    _check_counts(batch_size, window)
    columns = []
    for classes in _chunks(names, max(1, window // len(patterns))):
        parts = []
        for part in _template_parts(patterns, classes, window):
            vectors, dtype = _window_vectors(encode_text, classes, part, batch_size)
            parts.append(vectors.to(dtype))  # (T', C', D)
        columns.append(torch.cat(parts))  # (T, C', D)
    return torch.cat(columns, dim=1)  # (T, C, D)


def _chunks(names: list[list[str]], most: int) -> Iterator[list[list[str]]]:
    """Classes in order, so many that a chunk has at most `most` names, but at least one class."""
    chunk: list[list[str]] = []
    count = 0
    for of_class in names:
        if chunk and count + len(of_class) > most:
            yield chunk
            chunk, count = [], 0
        chunk.append(of_class)
        count += len(of_class)
    yield chunk


def _template_parts(patterns: list[str], classes: list[list[str]], window: int) -> Iterator[list[str]]:
    """Templates in order, so many that their prompts for these classes fit in a window, but at least one."""
    most = max(1, window // sum(map(len, classes)))
    for start in range(0, len(patterns), most):
        yield patterns[start : start + most]


def _window_vectors(
    encode_text: Encode, classes: list[list[str]], patterns: list[str], batch_size: int
) -> tuple[Tensor, torch.dtype]:
    """Unit features (T', C', D) of one window's templates and classes, in float32 or better; the encoder's dtype."""
    prompts = [[pattern.replace("{}", name) for of_class in classes for name in of_class] for pattern in patterns]
    distinct = sorted({prompt for of_pattern in prompts for prompt in of_pattern}, key=lambda prompt: (len(prompt), prompt))
    batches = [distinct[start : start + batch_size] for start in range(0, len(distinct), batch_size)]
    features = torch.cat([_features(encode_text, batch) for batch in batches])  # (P, D)
    unit = normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
    place = {prompt: number for number, prompt in enumerate(distinct)}
    rows = torch.tensor([[place[prompt] for prompt in of_pattern] for of_pattern in prompts], device=unit.device)
    vectors = unit[rows]  # (P, D) -> (T', K', D), K' names
    sizes = [len(of_class) for of_class in classes]
    if len(sizes) < vectors.shape[1]:
        means = [own.mean(dim=1) for own in torch.split(vectors, sizes, dim=1)]
        vectors = normalize(torch.stack(means, dim=1), dim=-1)  # (T', K', D) -> (T', C', D)
    return vectors, features.dtype


def _features(encode_text: Encode, prompts: list[str]) -> Tensor:
    features = encode_text(prompts)
    if features.ndim != 2 or len(features) != len(prompts):
        raise InputError(
            f"encode_text gave {tuple(features.shape)} for {len(prompts)} prompts: it must return (B, D) for B strings"
        )
    return features


def names_of_classes(class_names: ClassNames) -> list[list[str]]:
    """The names of each class, at least one.

    Raises:
        InputError: no class, a class without a name, or an empty name.
    """
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


def _check_counts(batch_size: int, window: int) -> None:
    for name, value in (("batch_size", batch_size), ("window", window)):
        if value < 1:
            raise InputError(f"{name} {value} must be at least 1 prompt at a time")


def _check_name(number: int, name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"class name {number} is {name!r}, not a string: give the names, not class numbers")
    if not name.strip():
        raise InputError(f"class name {number} is empty: give each class a name")
