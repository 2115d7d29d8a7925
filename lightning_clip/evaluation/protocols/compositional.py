"""Compositional checks: how often a model knows which of two similar captions belongs to which of two similar images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.evaluation.hard_negatives import TWINS, TwinScores, make_twins, twin_scores
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent, wrapped

__all__ = ["Compositional"]

_CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
_WORDS = {
    "order": "things change places",
    "colours": "things change colours",
    "counts": "another number",
    "places": "another place",
}
_SHOWN = 4


@protocols.register("compositional")
class Compositional(Protocol):
    """Whether a model reads a caption or a bag of words: rendered scenes in twos, which differ in one thing.

    Scored as Winoground (Thrush et al. 2022): text, image, group. The scenes are made here, whatever the set.

    Metrics: text, image, group over all kinds, and `<kind>/text` and so on.

    Args:
        kinds: of `order` (words change places), `colours` (swapped between things), `counts`, `places`.
        size: twins of each kind.
        seed: of the scenes.
        image_size: side of the images as rendered.
    """

    title = "Composition"

    def __init__(self, kinds: Sequence[str] = tuple(TWINS), size: int = 200, seed: int = 0, image_size: int = 96) -> None:
        for kind in kinds:
            if kind not in TWINS:
                raise InputError(f"compositional has no kind {kind!r}: {nearest(kind, TWINS)}")
        if not kinds or size < 1 or image_size < 16:
            raise InputError(
                f"compositional needs kinds, a size from 1 (got {size}) and an image_size from 16 (got {image_size})"
            )
        self.kinds, self.size, self.seed, self.image_size = list(kinds), size, seed, image_size

    def evaluate(self, subject: Subject) -> Result:
        """How often twins are distinguished, over all kinds and by kind."""
        found = {kind: self._scores(subject, kind) for kind in self.kinds}
        metrics, per_image = {}, torch.cat([scores.text for scores in found.values()]).double()
        for name in _CHANCE:
            metrics[name] = float(torch.cat([getattr(scores, name) for scores in found.values()]).double().mean())
        for kind, scores in found.items():
            metrics |= {f"{kind}/{name}": float(getattr(scores, name).double().mean()) for name in _CHANCE}
        chance = {name: _CHANCE[name.rpartition("/")[2]] for name in metrics}
        right = {kind: [scores.text[:_SHOWN].tolist(), scores.image[:_SHOWN].tolist()] for kind, scores in found.items()}
        return Result(metrics, chance, per_image.tolist(), {"right": right})

    def _scores(self, subject: Subject, kind: str) -> TwinScores:
        twins = [make_twins(kind, number, self.seed, self.image_size) for number in range(self.size)]
        images = subject.encode_images([picture for pair in twins for picture in pair.images])
        texts = subject.encode_text([caption for pair in twins for caption in pair.captions])
        shape = (self.size, 2, -1)
        return twin_scores(torch.einsum("ncd,nid->nci", texts.reshape(shape), images.reshape(shape).to(texts)))

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models and the first twins of each kind."""
        header = ("what differs", *(f"{name}: {part}" for name in results for part in _CHANCE))
        rows = [
            (_WORDS[kind], *(in_percent(result.metrics[f"{kind}/{part}"]) for result in results.values() for part in _CHANCE))
            for kind in self.kinds
        ]
        rows.append(("guessing", *(in_percent(_CHANCE[part]) for _ in results for part in _CHANCE)))
        text = (
            "In %. Text: for both images their own caption scores higher; image: for both captions their own image does; "
            "group: both."
        )
        sheets = [(f"{name}: {kind}", self._sheet(kind, result)) for name, result in results.items() for kind in self.kinds]
        return [Section("Twins of scenes", text, Table(header, rows)), Section("The first twins", _LEGEND, figures=sheets)]

    def _sheet(self, kind: str, result: Result) -> Figure:
        pictures: list[Tensor] = []
        texts: list[str] = []
        colours: list[str] = []
        by_text, by_image = result.details["right"][kind]
        for number, (text, image) in enumerate(zip(by_text, by_image, strict=True)):
            twins = make_twins(kind, number, self.seed, self.image_size)
            pictures += twins.images
            texts += [wrapped(caption, 28, 3) for caption in twins.captions]
            colours += ["good" if text and image else "plain" if text or image else "bad"] * 2
        return contact_sheet(pictures, texts, colours, columns=4)


_LEGEND = "Green: distinguished both ways; black: one way; red: neither."
