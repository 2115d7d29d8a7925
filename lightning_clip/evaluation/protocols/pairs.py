"""Pairs: two pictures and their two captions, which a model has to tell apart, such as Winoground's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.hard_negatives import twin_scores
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent, wrapped

__all__ = ["Pairs"]

_CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
_SHOWN = 6  # pairs


@protocols.register("pairs")
class Pairs(Protocol):
    """Images of a set in twos, each with one caption: how often both are told apart (Thrush et al. 2022, section 3.3).

    The first and the second image of a set are a pair, the third and the fourth, and so on.

    Metrics: text (for both images their own caption scores higher), image (for both captions their own image does), group
    (both); and `<class>/text` and so on where the pairs have classes.
    """

    title = "Pairs"

    def evaluate(self, subject: Subject) -> Result:
        """Scores of both captions with both images of each pair."""
        features = subject.features()
        if features.index.tolist() != list(range(len(features))) or len(features) % 2:
            raise InputError(
                f"pairs needs images in twos, and got {len(features)} that could be read of {len(subject.dataset.source)}"
            )
        if features.text_index.tolist() != features.index.tolist():
            raise InputError("pairs needs one caption for each image: take the set 'winoground', or pairs of your own")
        shape = (len(features) // 2, 2, -1)
        images, texts = features.image_features.reshape(shape), features.text_features.reshape(shape)  # (N, 2, D)
        found = twin_scores(torch.einsum("ncd,nid->nci", texts, images.to(texts)))._asdict()
        metrics = {name: float(right.double().mean()) for name, right in found.items()}
        label = features.label[::2]
        for number, name in enumerate(subject.dataset.names):
            if (inside := label == number).any():
                metrics |= {f"{name}/{part}": float(right[inside].double().mean()) for part, right in found.items()}
        chance = {name: _CHANCE[name.rpartition("/")[2]] for name in metrics}
        shown = [[bool(found["text"][number]), bool(found["image"][number])] for number in range(min(_SHOWN, len(label)))]
        return Result(metrics, chance, found["text"].double().tolist(), {"right": shown})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models, and the first pairs."""
        keys = list(dict.fromkeys(key for result in results.values() for key in result.metrics))
        rows = [(key, *(in_percent(found.metrics.get(key, 0.0)) for found in results.values())) for key in keys]
        rows = [(*row, in_percent(_CHANCE[row[0].rpartition("/")[2]])) for row in rows]
        text = (
            "In %. Text: for both images their own caption scores higher; image: for both captions their own image does; "
            "group: both."
        )
        sheets = [(name, _sheet(result, dataset)) for name, result in results.items()]
        legend = "Green: told apart both ways; black: one way; red: neither."
        return [
            Section("Pairs told apart", text, Table(("", *results, "guessing"), rows)),
            Section("The first pairs", legend, figures=sheets),
        ]


def _sheet(result: Result, dataset: EvaluationSet) -> Figure:
    pictures: list[Tensor] = []
    texts: list[str] = []
    colours: list[str] = []
    for number, (text, image) in enumerate(result.details["right"]):
        for place in (2 * number, 2 * number + 1):
            pictures.append(dataset.picture(place))
            texts.append(wrapped(dataset.source.captions(place)[0], 28, 3))
        colours += ["good" if text and image else "plain" if text or image else "bad"] * 2
    return contact_sheet(pictures, texts, colours, columns=4)
