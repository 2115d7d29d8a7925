"""A model with one set: what protocols ask for arrives, features leave, each computed once and kept under the model's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.data.sources import PairSource
from lightning_clip.errors import InputError
from lightning_clip.evaluation.extraction import Images, extract
from lightning_clip.evaluation.features import Features, load_features
from lightning_clip.evaluation.models import EvaluatedModel
from lightning_clip.prompts.classifier import template_vectors
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["CachedSubject", "set_fingerprint"]

Extract = Callable[[Images, Path, "int | None"], Features]


class CachedSubject:
    """A `Subject` whose features stand on disk, under `folder/<model's identity>/`.

    Args:
        model: what is evaluated.
        dataset: on what.
        name: of the set.
        folder: of the cache.
        spec: how the set was described, which tells it from others; None looks at its size and first keys.
        make: encodes and writes what is missing; None uses a Trainer of its own.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        dataset: EvaluationSet,
        name: str,
        folder: Path,
        *,
        spec: Any = None,
        make: Extract | None = None,
    ) -> None:
        self.model, self.dataset, self.name = model, dataset, name
        self.folder, self.spec = folder / model.identity, spec
        self.extracted: list[str] = []
        self._make = make or (lambda images, path, classes: extract(model, images, path, num_classes=classes))
        self._features: dict[tuple[str, str | None], Features] = {}
        self._vectors: dict[tuple[str, str], Tensor] = {}

    @property
    def scale(self) -> float:
        """The model's inverse temperature."""
        return self.model.scale

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        """See `Subject`.

        Raises:
            InputError: the set has no such split, or its features cannot be evaluated.
        """
        key = (split, corruption)
        if key not in self._features:
            source = {"test": self.dataset.source, "train": self.dataset.train, "val": self.dataset.val}[split]
            if source is None:
                raise InputError(f"{self.name} has no {split} split, which this protocol needs: give {split}= a source")
            self._features[key] = self._read(source, split, corruption)
        return self._features[key]

    def classifier(self, class_names: Sequence[Any] | None = None, templates: Sequence[str] | None = None) -> Tensor:
        """See `Subject`; several names of a class are averaged like templates."""
        names = list(self.dataset.class_names if class_names is None else class_names)
        patterns = list(self.dataset.templates if templates is None else templates)
        if not names:
            raise InputError(f"{self.name} has no class names: give class_names, in the order of its labels")
        return normalize(self.template_vectors(names, patterns).sum(dim=0), dim=-1).T

    def template_vectors(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        """Unit features float32 (T, C, D) of each template with each class; several names of a class are averaged."""
        missing = [pattern for pattern in dict.fromkeys(templates) if (_short(class_names), pattern) not in self._vectors]
        if missing:
            path = self.folder / f"prompts-{_short((list(class_names), missing))}.safetensors"
            found = _kept(path, lambda: class_vectors(self.model.encode_text, class_names, missing))
            self._vectors.update({(_short(class_names), pattern): found[row] for row, pattern in enumerate(missing)})
        return torch.stack([self._vectors[_short(class_names), pattern] for pattern in templates])

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features float32 (B, D)."""
        return self.model.encode_text(texts)

    def encode_images(self, images: Sequence[Tensor]) -> Tensor:
        """Unit features float32 (B, D) of uint8 pictures (3, H, W) of any size."""
        transform, parts = self.model.transform(), []
        with torch.no_grad():
            for start in range(0, len(images), 256):
                pixels = torch.stack([transform(image) for image in images[start : start + 256]])
                parts.append(self.model.encode_image(pixels.to(self.device))[0].cpu())
        return torch.cat(parts)

    def _read(self, source: PairSource, split: str, corruption: str | None) -> Features:
        images = Images(source, self.model.transform(), corruption)
        classes = len(self.dataset.class_names) if self.dataset.multilabel else None
        stem = f"{_plain(self.name)}-{split}{'-' + corruption.replace(':', '') if corruption else ''}"
        path = self.folder / f"{stem}-{set_fingerprint(source, self.spec)}.safetensors"
        if path.exists():
            features = load_features(path)
        else:
            self.extracted.append(path.name)
            features = self._make(images, path, classes)
        return features.checked(f"{self.name} ({split})", len(self.dataset.class_names) or None)


def class_vectors(encode_text: Callable[[Sequence[str]], Tensor], names: Sequence[Any], templates: Sequence[str]) -> Tensor:
    """Unit vectors (T, C, D) of each template with each class; a class with several names is the mean of theirs, normalised.

    All prompts go through the text tower in one call: each distinct one once, with others of similar length.

    Args:
        encode_text: strings -> features.
        names: of each class one, or a list.
        templates: with {}.

    Raises:
        InputError: no class, an empty class or name, or a wrong template.
    """
    several = [[name] if isinstance(name, str) else list(name) for name in names]
    for number, own in enumerate(several):
        if not own:
            raise InputError(f"class {number} has no name: give at least one")
    flat = [name for own in several for name in own]
    distinct = list(dict.fromkeys(flat))
    vectors = template_vectors(encode_text, distinct, templates, batch_size=1 << 30)
    if len(distinct) == len(several) == len(flat):
        return vectors
    column = {name: number for number, name in enumerate(distinct)}
    means = [vectors[:, [column[name] for name in own]].mean(dim=1) for own in several]
    return normalize(torch.stack(means, dim=1), dim=-1)


def set_fingerprint(source: PairSource, spec: Any = None) -> str:
    """A short name for a source: its description, or its kind; its size and its first captions."""
    try:
        first = source.captions(0) if len(source) else ()
    except (OSError, ValueError, KeyError):
        first = ()
    return _short((json.dumps(spec, sort_keys=True, default=str), type(source).__name__, len(source), first))


def _kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if path.exists():
        try:
            return load_file(path)["value"]
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"cached classifier {str(path)!r} is broken ({error}): delete the file") from error
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    save_file({"value": value.contiguous()}, beside)
    beside.replace(path)
    return value


def _short(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
