"""Overlap of a test set with training data: accuracy with and without copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.data.pixel_values import PixelReading
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.evaluation.image_grids import picture
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.train_test_overlap import Copies, hashes, nearest_copies, overlap_statistics
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent, wrapped

__all__ = ["Overlap"]

_BATCH = 256  # images decoded at a time


@protocols.register("overlap")
class Overlap(Protocol):
    """How much of the zero-shot accuracy comes from test images that were trained on (Radford et al. 2021, section 5).

    Metrics: all, clean, overlap (accuracies), share (of overlapping images), effect, p_value, low, high.

    Args:
        training: pair sources, as `pair_sources` builds them; "train" is the training split of the set.
        perceptual: an image is a copy if its perceptual hash of 256 bits differs in at most so many.
        neighbours: also if the cosine of the model's embeddings is at least this; None does not look.
        confidence: of the interval of the accuracy on the overlap.
        examples: pairs of images to show.

    Raises:
        InputError: no `training`, or a setting outside its range.
    """

    title = "Overlap with training data"

    def __init__(
        self,
        training: Sequence[Any] = (),
        perceptual: int = 12,
        neighbours: float | None = None,
        confidence: float = 0.995,
        examples: int = 16,
    ) -> None:
        if isinstance(training, str) or not training:
            raise InputError(f'overlap needs training, a list of sources or ["train"], and got {training!r}')
        if not 0 <= perceptual < 256:
            raise InputError(f"overlap: perceptual {perceptual} is outside 0 to 255 bits: 12 finds resized copies")
        if neighbours is not None and not -1 <= neighbours <= 1:
            raise InputError(f"overlap: neighbours {neighbours} is no cosine: give one such as 0.95, or None")
        if not 0 < confidence < 1:
            raise InputError(f"overlap: confidence {confidence} is outside (0, 1): the paper has 0.995")
        self.training, self.perceptual, self.neighbours = list(training), perceptual, neighbours
        self.confidence, self.examples = confidence, examples
        self._kept: tuple[PairSource, list[int], Copies] | None = None

    def evaluate(self, subject: Subject) -> Result:
        """Accuracy with and without the copies, with the significance of the difference."""
        features = subject.features()
        if features.label.ndim == 2:
            raise InputError("overlap is for one class an image: omit it for a multilabel set")
        right = (subject.scores().values.argmax(dim=1) == features.label).numpy()
        place, bits = self._copies(subject.dataset, features.index.tolist())
        cosine = np.full(len(right), -1.0)
        if self.neighbours is not None:
            nearest, cosine = self._neighbours(subject, features.image_features)
            close = (place < 0) & (cosine >= self.neighbours)
            place = np.where(close, nearest, place)
        found = overlap_statistics(right, place >= 0, self.confidence)
        order = sorted(np.flatnonzero(place >= 0).tolist(), key=lambda row: (bits[row], -cosine[row], row))
        examples = [
            [int(features.index[row]), int(place[row]), int(bits[row]), float(cosine[row]), bool(right[row])]
            for row in order[: self.examples]
        ]
        names = ["all", "clean", "overlap", "share", "effect", "p_value", "low", "high"]
        details = {"images": len(right), "copies": int((place >= 0).sum()), "examples": examples}
        metrics = {name: found[name] for name in names if name in found}
        return Result(metrics, {}, right.astype(float).tolist(), details)

    def _opened(self, dataset: EvaluationSet) -> list[PairSource]:
        if "train" in self.training and dataset.train is None:
            raise InputError('overlap: the set has no train split: give train= a source, or name sources in place of "train"')
        return [dataset.train if spec == "train" else pair_sources.build(spec) for spec in self.training]  # type: ignore[misc]

    def _copies(self, dataset: EvaluationSet, index: list[int]) -> Copies:
        """Places count through the training sources one after the other; the same for every model, so found once."""
        if self._kept is None or self._kept[0] is not dataset.source or self._kept[1] != index:
            test, read = hashes(dataset.source, index, dataset.reading)
            all_hashes, numbers, start = [], [], 0
            for source in self._opened(dataset):
                hashed, places = hashes(source, range(len(source)), dataset.reading)
                all_hashes.append(hashed)
                numbers.append(places + start)
                start += len(source)
            near, bits = nearest_copies(test, np.concatenate(all_hashes), self.perceptual)
            place, apart = np.full(len(index), -1, np.int64), np.full(len(index), 256, np.int64)
            rows = np.searchsorted(np.array(index), read)
            place[rows] = np.where(near < 0, -1, np.concatenate([*numbers, [-1]])[near])
            apart[rows] = bits
            self._kept = (dataset.source, index, (place, apart))
        return self._kept[2]

    def _neighbours(self, subject: Subject, test: Tensor) -> Copies:
        """The training image with the largest cosine to each test image, and that cosine, (N,) each."""
        best, where = torch.full((len(test),), -2.0), torch.full((len(test),), -1, dtype=torch.int64)
        start = 0
        for spec, source in zip(self.training, self._opened(subject.dataset), strict=True):
            if spec == "train":
                train = subject.features("train")
                parts = [
                    (train.image_features[low : low + _BATCH], train.index[low : low + _BATCH])
                    for low in range(0, len(train), _BATCH)
                ]
            else:
                parts = _embedded(subject, source)  # type: ignore[assignment]
            for vectors, places in parts:
                cosine, column = (test @ vectors.T).max(dim=1)
                better = cosine > best
                best = torch.where(better, cosine, best)
                where = torch.where(better, places[column] + start, where)
            start += len(source)
        return where.numpy(), best.numpy().astype(np.float64)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models and the copies that were found."""
        rows = [(name, *_row(result.metrics), f"{result.details['copies']:,}") for name, result in results.items()]
        interval = f"overlap, {100 * self.confidence:g} % interval"
        header = ("model", "all", "clean", interval, "all - clean", "p", "overlapping images")
        text = (
            f"Test images within {self.perceptual} bits of a training image"
            + (f", or with a cosine of {self.neighbours:g} or more" if self.neighbours is not None else "")
            + ", do not count as clean. p: one-tailed, that accuracy on them is greater than on the clean ones."
        )
        found = [Section("Accuracy without images seen in training", text, Table(header, rows))]
        shown: list[Any] = []
        for name, result in results.items():
            examples = [entry[:3] for entry in result.details["examples"]]
            if examples and examples not in shown:  # without neighbours they are the same for all models
                shown.append(examples)
                figure = self._sheet(dataset, result.details["examples"])
                note = "Each with the training image to its right."
                found.append(Section(f"{name}: overlapping images", note, figures=[("copies", figure)]))
        return found

    def _sheet(self, dataset: EvaluationSet, examples: Sequence[Sequence[Any]]) -> Figure:
        sources = self._opened(dataset)
        pictures, texts, colours = [], [], []
        for own, place, bits, cosine, right in examples:
            first, second = (picture(dataset.source, own, dataset.reading), _picture(sources, place, dataset.reading))
            if first is not None and second is not None:
                pictures += [first, second]
                said = f"{bits} bits" if bits < 256 else f"cosine {cosine:.2f}"
                texts += [wrapped("test, " + ("right" if right else "wrong")), wrapped(f"training, {said}")]
                colours += ["good" if right else "bad", "plain"]
        return contact_sheet(pictures, texts, colours)


def _embedded(subject: Subject, source: PairSource) -> Any:
    for low in range(0, len(source), _BATCH):
        places, reading = range(low, min(len(source), low + _BATCH)), subject.dataset.reading
        shown = [(place, picture(source, place, reading)) for place in places]
        good = [(place, pixels) for place, pixels in shown if pixels is not None]
        if good:
            yield subject.encode_images([pixels for _, pixels in good]).cpu(), torch.tensor([place for place, _ in good])


def _picture(sources: Sequence[PairSource], place: int, reading: PixelReading) -> Tensor | None:
    for source in sources:
        if place < len(source):
            return picture(source, place, reading)
        place -= len(source)
    return None


def _row(metrics: Mapping[str, float]) -> tuple[str, ...]:
    shown = {name: in_percent(value, digits=2) for name, value in metrics.items()}
    interval = f"{shown['overlap']} [{shown['low']}, {shown['high']}]" if "overlap" in metrics else ""
    p_value = f"{metrics['p_value']:.3g}" if "p_value" in metrics else ""
    return shown.get("all", ""), shown.get("clean", ""), interval, shown.get("effect", ""), p_value
