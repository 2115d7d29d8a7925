"""Retrieval in both directions: recall, median rank and mean average precision, without an N x M matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.image_grids import picture
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.repeats import warn_of_repeats
from lightning_clip.evaluation.retrieval_examples import spread_queries
from lightning_clip.metrics import retrieval_chance
from lightning_clip.metrics.scores import matrix_scores, retrieval_scores
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["RetrievalProtocol"]

_QUERIES, _SHOWN = 4, 5


@protocols.register("retrieval")
class RetrievalProtocol(Protocol):
    """Retrieval among the images of a set with all their captions (Karpathy and Fei-Fei 2015).

    A caption and an image are compared by their cosine, or by what the model's objective scores pairs by, such as FLAIR.

    Metrics: `text_to_image/recall@k`, `image_to_text/recall@k`, `.../median_rank`, `.../mean_average_precision`.

    Args:
        ks: cut-offs of the recall.
    """

    title = "Retrieval"

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.ks = list(ks)

    def evaluate(self, subject: Subject) -> Result:
        """Recall, median rank and mean average precision in both directions."""
        features = subject.features()
        if not len(features.text_features):
            raise InputError(
                "this set has no captions, or the model no text tower to read them: retrieval needs at least one for each image"
            )
        described = torch.isin(features.index, features.text_index)
        images, index = features.image_features[described], features.index[described]
        warn_of_repeats(images, "retrieval")
        owner, scored = features.text_index, subject.caption_scores()
        if scored is None:
            values, found = retrieval_scores(images, features.text_features, owner, self.ks, image_index=index)
            examples = _examples(lambda row: images @ features.text_features[row], index, owner)
        else:
            matrix = scored.values[described]  # (N, M)
            values, found = matrix_scores(matrix, owner, self.ks, image_index=index)
            examples = _examples(lambda row: matrix[:, row], index, owner)
        chance = retrieval_chance(features.text_index, self.ks)
        first = min(self.ks)
        order = [f"{d}/{m}" for d in ("text_to_image", "image_to_text") for m in
                 (*(f"recall@{k}" for k in self.ks), "median_rank", "mean_average_precision")]  # fmt: skip
        metrics = {name: float(values[name]) for name in order}
        per_text = (found["text_to_image"] <= first).float()
        return Result(metrics, chance, per_text.tolist(), {"examples": examples})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """For each model the images found for some captions."""
        found = []
        for name, result in results.items():
            figures = []
            for place, which, own, places in result.details["examples"]:
                caption = dataset.source.captions(place)[which]
                if (sheet := _sheet(dataset, caption, own, places)) is not None:
                    figures.append((caption, sheet))
            text = "First a caption with its own image; then the images the model ranks first for it."
            found.append(Section(f"{name}: images found for a caption", text, figures=figures))
        return found


def _sheet(dataset: EvaluationSet, caption: str, own: int, places: Sequence[int]) -> Figure | None:
    """A caption with its own image, and the images found for it; None where none can be read."""
    pictures, texts, colours = [], [], []
    for number, place in enumerate([own, *places]):
        if (pixels := picture(dataset.source, place, dataset.reading)) is None:
            continue
        pictures.append(pixels)
        texts.append(wrapped(caption) if number == 0 else "its own" if place == own else f"#{number}")
        colours.append("good" if number and place == own else "plain")
    return contact_sheet(pictures, texts, colours, columns=1 + _SHOWN) if pictures else None


def _examples(scores: Callable[[int], Tensor], index: Tensor, text_index: Tensor) -> list[list[object]]:
    """Captions spread over the set: [place of its image, which of its captions, the same place, places found]."""
    examples: list[list[object]] = []
    for row, found in spread_queries(scores, index, len(text_index), _QUERIES, _SHOWN):
        own = int(text_index[row])
        which = int((text_index[:row] == own).sum())
        examples.append([own, which, own, found])
    return examples
