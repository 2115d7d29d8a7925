"""A query: words and pictures that are wanted, and some that are not -> one unit vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.model.predictor import Predictor

__all__ = ["Query"]

_LONGEST = 2000  # characters of a text


@dataclass(frozen=True)
class Query:
    """What to look for. The vector is the mean of what is wanted minus `against` times the mean of what is not.

    Words and pictures stand apart in the shared space of most models; a mean of both finds what is like the picture and has
    what the words say.

    Args:
        texts: that say what is wanted.
        images: that show it; whatever `Predictor.encode_image` takes.
        without: texts that say what is not.
        vectors: unit features (n, D) of pictures in the index, for "more like this".
        against: weight of what is not wanted, from 0 to 2.

    Raises:
        InputError: nothing that is wanted, or an empty or very long text.

    Examples:
        >>> Query(texts=["a red boat"], without=["people"]).against
        0.5
    """

    texts: Sequence[str] = ()
    images: Sequence[Any] = ()
    without: Sequence[str] = ()
    vectors: np.ndarray | None = field(default=None, compare=False)
    against: float = 0.5

    def __post_init__(self) -> None:
        in_range("against", self.against, 0, 2)
        for text in (*self.texts, *self.without):
            if not text.strip():
                raise InputError("the query is empty: say what to look for, such as 'a red boat'")
            if len(text) > _LONGEST:
                raise InputError(f"the query has {len(text):,} characters, more than {_LONGEST:,}: shorten it")
        if not self.texts and not self.images and self.vectors is None:
            raise InputError("the query is empty: give words, a picture, or both")

    def vector(self, predictor: Predictor) -> np.ndarray:
        """The unit vector, float32 (D,).

        Args:
            predictor: of the model that built the index.

        Raises:
            InputError: a picture that cannot be read, or what is wanted and what is not are the same.
        """
        wanted = []
        if self.texts:
            wanted.append(predictor.encode_text(list(self.texts)).float().cpu())
        if self.images:
            wanted.append(predictor.encode_image(list(self.images)).float().cpu())
        if self.vectors is not None:
            wanted.append(torch.from_numpy(np.asarray(self.vectors, np.float32)).reshape(-1, predictor.model.embed_dim))
        found = torch.cat(wanted).mean(dim=0)  # (n, D) -> (D,)
        if self.without:
            found = found - self.against * predictor.encode_text(list(self.without)).float().cpu().mean(dim=0)
        if float(found.norm()) < 1e-6:
            raise InputError("the query cancels itself out: what is wanted and what is not are the same")
        return normalize(found, dim=0).numpy()
