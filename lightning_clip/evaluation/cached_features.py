"""`CachedSubject`: a model with one set, its features on disk under the model's identity for every later run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_clip.core.atomic import beside, safe_name
from lightning_clip.core.errors import InputError
from lightning_clip.core.secrets import hidden
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.extraction import extract
from lightning_clip.evaluation.feature_provider import ModelSubject
from lightning_clip.evaluation.features import Features, load_features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["CachedSubject", "set_fingerprint"]

Keep = Callable[[EvaluatedModel, Images, Path, "int | None"], Features]


class CachedSubject(ModelSubject):
    """A `Subject` whose features are kept on disk, under `folder/<model's identity>/`.

    Args:
        model: what is evaluated.
        dataset: on what.
        name: of the set.
        folder: of the cache.
        spec: how the set was described, which tells it from others; None looks at its size and first keys.
        keep: encodes and writes what is missing; None uses a Trainer of its own.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        dataset: EvaluationSet,
        name: str,
        folder: Path,
        *,
        spec: Any = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(model, dataset, name)
        self._keep = keep or (lambda by, images, path, classes: extract(by, images, path, num_classes=classes))
        self.folder, self.spec, self._root = folder / model.identity, spec, folder

    def other(self, name: str, spec: Any) -> CachedSubject:
        """The same model with another set; what it extracts counts as extracted here.

        Args:
            name: of the set.
            spec: as a suite describes it.
        """
        found = CachedSubject(self.model, open_evaluation_set(spec), name, self._root, spec=spec, keep=self._keep)
        found.extracted = self.extracted
        return found

    def _made(self, model: EvaluatedModel, images: Images, split: str, against: Any = None) -> Features:
        corruption = f"-{images.corruption.replace(':', '')}" if images.corruption else ""
        scores = "" if against is None else f"-scores-{_short(against)}"
        stem = f"{safe_name(self.name)}-{split}{corruption}{scores}"
        path = self.folder / f"{stem}-{set_fingerprint(images.source, self.spec)}.safetensors"
        if path.exists():
            return load_features(path)
        self.extracted.append(path.name)
        return self._keep(model, images, path, self._classes())

    def _class_vectors(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        path = self.folder / f"prompts-{_short((list(class_names), list(templates)))}.safetensors"
        return _kept(path, lambda: super(CachedSubject, self)._class_vectors(class_names, templates))

    def _class_embeddings(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        path = self.folder / f"classifier-{_short((list(class_names), list(templates)))}.safetensors"
        return _kept(path, lambda: super(CachedSubject, self)._class_embeddings(class_names, templates))


def set_fingerprint(source: PairSource, spec: Any = None) -> str:
    """A short name for a source: its description, or its kind; its size and its first captions.

    Args:
        source: of one split.
        spec: how its set was described, or None.
    """
    try:
        first = source.captions(0) if len(source) else ()
    except (OSError, ValueError, KeyError):
        first = ()
    return _short((json.dumps(hidden(spec), sort_keys=True, default=str), type(source).__name__, len(source), first))


def _kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if path.exists():
        try:
            return load_file(path)["value"]
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"cached classifier {str(path)!r} is broken ({error}): delete the file") from error
    value = make()
    with beside(path) as place:
        save_file({"value": value.contiguous()}, place)
    return value


def _short(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
