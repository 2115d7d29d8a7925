"""Where a model looks, for reports: examples with their classes or the words of their captions laid over as heat."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lightning_clip.applications.relevance import relevance, word_relevance
from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.image_grids import picture
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.protocols import Protocol, Result
from lightning_clip.evaluation.protocols.retrieval import RetrievalProtocol
from lightning_clip.evaluation.protocols.zero_shot import ZeroShot
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section
from lightning_clip.reporting.overlays import heated
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["CLASSES_TEXT", "Cells", "class_cells", "explained", "relevance_section", "relevance_sections", "word_cells"]

log = logging.getLogger(__name__)
CLASSES_TEXT = "Each picture, then where its class is seen in it and, if the answer was another, where that is: red is most."
_WORDS_TEXT = "Each picture, where its caption is seen in it, and its words: what it would lose without them, red most."
_EXAMPLES, _WORDS, _AGAINST = 4, 4, 64
Cells = list[tuple[Tensor, str]]  # pictures uint8 (3, S, S) with what is written under each


def relevance_sections(
    models: Mapping[str, EvaluatedModel], results: Mapping[str, Result], protocol: Protocol, dataset: EvaluationSet
) -> list[Section]:
    """A section for each model whose tower tells places: classes after zero-shot classification, words after retrieval.

    Args:
        models: by name; those of other libraries are passed over.
        results: of the protocol, by name of the model.
        protocol: others than these two have none.
        dataset: that was measured.
    """
    found = []
    for name, result in results.items():
        predictor = getattr(models.get(name), "predictor", None)
        if not isinstance(predictor, Predictor):
            continue
        if isinstance(protocol, ZeroShot):
            cells, text = explained(_of_classes(predictor, result, dataset)), CLASSES_TEXT
        elif isinstance(protocol, RetrievalProtocol):
            cells, text = explained(_of_captions(predictor, result, dataset)), _WORDS_TEXT
        else:
            continue
        if cells:
            found.append(relevance_section(f"{name}: where it looks", text, cells))
    return found


def relevance_section(title: str, text: str, cells: Cells) -> Section:
    """A section of pictures.

    Args:
        title: of it.
        text: above the pictures.
        cells: at least one.
    """
    pictures, texts = zip(*cells, strict=True)
    return Section(title, text, figures=[("relevance", contact_sheet(pictures, texts))])


def explained(examples: Sequence[Callable[[], Cells]]) -> Cells:
    """The cells of all examples; none for a tower that pools before any place can be told, or without the memory for it.

    Args:
        examples: each makes its cells.
    """
    try:
        return [cell for make in examples for cell in make()]
    except InputError:
        return []
    except RuntimeError as error:  # such as no memory: the rest of the report is written
        log.warning("where the model looks could not be drawn: %s", " ".join(str(error).split())[:200])
        return []


def class_cells(predictor: Predictor, image: Tensor, names: Sequence[str], true: int, answer: int) -> Cells:
    """A picture, and where its class and the answer, if that is another, are seen in it.

    Args:
        predictor: of the model.
        image: uint8 (3, H, W).
        names: of all classes.
        true: number of its class.
        answer: number of the class it was taken for.
    """
    found = relevance(predictor, image, [names[true], names[answer]], against=list(names[:_AGAINST]))
    maps = found.maps()  # (2, S, S)
    cells = [(found.picture, f"a picture of: {names[true]}"), (heated(found.picture, maps[0]), f"where: {names[true]}")]
    if true != answer:
        cells.append((heated(found.picture, maps[1]), f"the answer: {names[answer]}"))
    return [(pixels, wrapped(text)) for pixels, text in cells]


def word_cells(predictor: Predictor, image: Tensor, caption: str) -> Cells:
    """A picture, where its caption is seen in it, and each of its first words that stand for something.

    Args:
        predictor: of the model.
        image: uint8 (3, H, W).
        caption: of it.
    """
    found = word_relevance(predictor, image, caption)
    shown = list(zip(found.texts, found.maps(), strict=True))[: 1 + _WORDS]  # maps (S, S)
    cells = [(found.picture, caption), *((heated(found.picture, heat), f"where: {text}") for text, heat in shown)]
    return [(pixels, wrapped(text)) for pixels, text in cells]


def _of_classes(predictor: Predictor, result: Result, dataset: EvaluationSet) -> list[Callable[[], Cells]]:
    """Wrong answers first, half of them at most; of the right ones classes that were not shown yet."""
    wrong = list(result.details.get("worst", ()))[: _EXAMPLES // 2]
    right = list({entry[1]: entry for entry in reversed(result.details.get("best", ()))}.values())[::-1]
    read = ((picture(dataset.source, int(entry[0]), dataset.reading), entry) for entry in [*wrong, *right])
    known = [(pixels, entry) for pixels, entry in read if pixels is not None][:_EXAMPLES]
    return [
        partial(class_cells, predictor, pixels, dataset.names, int(true), int(answer)) for pixels, (_, true, answer, _) in known
    ]


def _of_captions(predictor: Predictor, result: Result, dataset: EvaluationSet) -> list[Callable[[], Cells]]:
    chosen: list[Any] = result.details.get("examples", [])[:_EXAMPLES]
    found: list[Callable[[], Cells]] = []
    for place, which, *_ in chosen:
        pixels = picture(dataset.source, place, dataset.reading)
        if pixels is not None:
            found.append(partial(word_cells, predictor, pixels, dataset.source.captions(place)[which]))
    return found
