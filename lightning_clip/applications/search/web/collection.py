"""`Collection`: an index and its model in use by many requests at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from lightning_clip.applications.relevance import relevance
from lightning_clip.applications.search.entries import Entry
from lightning_clip.applications.search.index import Hit
from lightning_clip.applications.search.query import Query
from lightning_clip.applications.search.web.lighting import lit
from lightning_clip.applications.search.web.reading import Reading
from lightning_clip.applications.search.web.surveys import Surveys
from lightning_clip.core.errors import InputError
from lightning_clip.core.locks import writer_of
from lightning_clip.data.decoding import decode
from lightning_clip.data.image_steps import reading_of
from lightning_clip.model.predictor import Predictor

__all__ = ["Collection"]

_KEPT = 512  # features of labels that are not computed again


class Collection:
    """What the page and the API ask of an index; every method may be called from several threads.

    The model encodes one request at a time, and the index is read by one at a time; each answer is that of a single request.
    Where a build adds to the index meanwhile, the next request sees what it has added.

    Args:
        path: folder of the index.
        predictor: of the model that built it.

    Raises:
        InputError: no index, or one of another model.
    """

    def __init__(self, path: str | Path, predictor: Predictor) -> None:
        self.path, self.predictor = Path(path).expanduser(), predictor
        self.reading = Reading(self.path)
        with self.reading() as index:
            index.check_model(predictor)
            self._width = index.dim
        self.surveys = Surveys(self.reading)
        self._encoding = Lock()
        self._labels: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()

    def close(self) -> None:
        """Closes the index."""
        self.reading.close()

    # -- what is there ----------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """Name, counts, model, and how far a build is that is at work."""
        writer = writer_of(self.path)
        with self.reading() as index:
            done, of = index.entries.progress() if writer else (0, 0)
            return {
                "name": self.path.resolve().name,
                "pictures": index.pictures(),
                "width": index.dim,
                "model": index.model or "an object",
                "reads_texts": self.predictor.tokenizer is not None,
                "building": {"done": done, "of": of} if writer else None,
            }

    def latest(self, before: int | None, most: int) -> list[Entry]:
        """The newest pictures, each once.

        Args:
            before: only those with a smaller id; None begins with the newest.
            most: how many, at least 1.
        """
        with self.reading() as index:
            numbers = index.entries.latest(index.vectors.count if before is None else before, most)
            return index.entries.get(numbers)

    def entry(self, number: int) -> Entry:
        """One picture.

        Raises:
            InputError: the index does not have it.
        """
        with self.reading() as index:
            index.vectors_of([number])
            return index.entries.get([number])[0]

    def thumbnail(self, number: int) -> bytes:
        """Its small picture, a JPEG; empty where the index was built without.

        Raises:
            InputError: the index does not have the picture.
        """
        with self.reading() as index:
            index.vectors_of([number])
            return index.entries.thumbnail(number)

    # -- searching --------------------------------------------------------------------------------------------------

    def encode(self, content: bytes) -> np.ndarray:
        """Unit features of a picture from outside, float32 (D,).

        Args:
            content: an encoded picture.

        Raises:
            InputError: bytes that are no picture.
        """
        with self._encoding:  # one at a time: a picture may unpack to hundreds of megabytes
            try:
                pixels = decode(content, reading_of(self.predictor.transform))  # uint8 (3, H, W)
            except ValueError as error:
                raise InputError(
                    f"this is no picture that can be read ({error}): give a JPEG, PNG, WebP, GIF, BMP or TIFF"
                ) from error
            features: np.ndarray = self.predictor.encode_image([pixels])[0].float().cpu().numpy()
        return features

    def search(
        self,
        texts: Sequence[str] = (),
        without: Sequence[str] = (),
        like: Sequence[int] = (),
        vectors: Sequence[Sequence[float]] = (),
        caption: str = "",
        against: float = 0.5,
        most: int = 40,
    ) -> list[Hit]:
        """Pictures, best first; those that are given as `like` are not among them.

        Args:
            texts: that say what is wanted.
            without: texts that say what is not.
            like: ids of pictures of the index, for "more like this".
            vectors: unit features (n, D) that `encode` gave.
            caption: only pictures whose captions have all these words; alone, it needs no model.
            against: weight of what is not wanted, from 0 to 2.
            most: how many, at least 1.

        Raises:
            InputError: what `Query` and `SearchIndex.search` refuse.
        """
        if caption and not (texts or without or like or len(vectors)):
            with self.reading() as index:
                return index.words(caption, most)
        with self.reading() as index:
            shown = [*map(self._checked, vectors), *(index.vectors_of(like) if like else ())]
            known = {entry.digest for entry in index.entries.get(like)}
        query = Query(texts, (), without, np.stack(shown) if shown else None, against)
        with self._encoding:
            vector = query.vector(self.predictor)
        with self.reading() as index:
            hits = index.search(vector, most + len(known), caption)
        return [hit for hit in hits if hit.entry.digest not in known][:most]

    def classify(self, labels: Sequence[str], vector: np.ndarray | Sequence[float], prompt: str = "simple") -> list[float]:
        """Probabilities of labels for a picture, in their order.

        Args:
            labels: at least two, each once.
            vector: unit features (D,) of the picture.
            prompt: with {} where the label goes, or the name of a set such as "simple".

        Raises:
            InputError: fewer labels, one twice, or a wrong prompt.
        """
        names = [label.strip() for label in labels if label.strip()]
        if len(names) < 2:
            raise InputError(f"labels name {len(names)}: give at least two, a line or a comma apart")
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"label {repeated!r} stands there twice: give each once")
        features = torch.from_numpy(self._checked(vector))
        with self._encoding:
            classifier = self._classifier(names, prompt)  # (C, D)
            logits = float(self.predictor.scale()) * classifier @ features  # (C, D) @ (D,) -> (C,)
        found: list[float] = logits.softmax(dim=0).tolist()
        return found

    def relevance(self, number: int, text: str) -> bytes:
        """Where in a picture of the index a text is seen: the picture as the model sees it, lit up there; a JPEG.

        Args:
            number: id of the picture.
            text: what to look for in it.

        Raises:
            InputError: an empty text, a picture without a thumbnail, or a model whose image tower has no places.
        """
        small = self.thumbnail(number)
        if not small:
            raise InputError(f"picture {number} has no thumbnail: build the index with --thumbnail 224")
        with self._encoding:
            return lit(relevance(self.predictor, decode(small), text))

    def vector_of(self, number: int) -> np.ndarray:
        """Unit features of a picture of the index, float32 (D,).

        Raises:
            InputError: the index does not have it.
        """
        with self.reading() as index:
            found: np.ndarray = index.vectors_of([number])[0]
        return found

    def _classifier(self, names: Sequence[str], prompt: str) -> torch.Tensor:
        """Class embeddings (C, D): of labels, those that were asked for before are not computed again."""
        missing = [name for name in names if (name, prompt) not in self._labels]
        if missing:
            found = self.predictor.zero_shot_classifier(missing, prompt).float().cpu().T  # (D, C) -> (C, D)
            self._labels.update({(name, prompt): row for name, row in zip(missing, found, strict=True)})
        rows = torch.stack([self._labels[name, prompt] for name in names])
        while len(self._labels) > _KEPT:
            self._labels.popitem(last=False)
        return rows

    def _checked(self, vector: np.ndarray | Sequence[float]) -> np.ndarray:
        given = np.asarray(vector, np.float64)
        width = self._width
        if given.shape != (width,) or not 1e-6 < np.linalg.norm(given) < 1e6:
            raise InputError(f"a vector must be {width} finite numbers, not all 0, as /api/encode gives them")
        unit: np.ndarray = (given / np.linalg.norm(given)).astype(np.float32)
        return unit
