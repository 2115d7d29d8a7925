"""Pictures that a run found for captions, and captions that it found for pictures, as sections."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_clip.callbacks.retrieval import Retrieval, RetrievalResult
from lightning_clip.data.image_steps import reading_of
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.image_grids import picture
from lightning_clip.reporting.html import Section
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["retrieval_sections"]


def retrieval_sections(callbacks: Sequence[Retrieval], source: PairSource, transform: nn.Module) -> list[Section]:
    """For some captions the images that the model ranks first, and for some images the captions.

    Args:
        callbacks: whose results are shown.
        source: reads the images again by their index.
        transform: uint8 (3, H, W) -> uint8 (3, S, S), the size at which they are shown.
    """
    sections = []
    for result in (callback.result for callback in callbacks if callback.result):
        sections += _found_images(result, source, transform) + _found_captions(result, source, transform)
    return sections


def _found_images(result: RetrievalResult, source: PairSource, transform: nn.Module) -> list[Section]:
    images: list[Tensor] = []
    captions: list[str] = []
    colours: list[str] = []
    for example in result.examples:
        for place, index in enumerate((example.own, *example.found)):
            if (image := picture(source, index, reading_of(transform))) is not None:
                images.append(transform(image))
                captions.append(wrapped(example.caption) if place == 0 else f"#{place}")
                colours.append("plain" if place == 0 else "good" if index == example.own else "bad")
    if not images:
        return []
    sheet = contact_sheet(images, captions, colours, columns=1 + len(result.examples[0].found))
    text = "First column: a caption with its own image; then the images the model ranks first for the caption."
    return [Section("Retrieval", text, figures=[("retrieved images", sheet)])]


def _found_captions(result: RetrievalResult, source: PairSource, transform: nn.Module) -> list[Section]:
    images: list[Tensor] = []
    captions: list[str] = []
    colours: list[str] = []
    for example in result.described:
        if (image := picture(source, example.image, reading_of(transform))) is not None:
            images.append(transform(image))
            lines = (f"{place}. {caption}" for place, (caption, _) in enumerate(example.captions, start=1))
            captions.append("\n".join(wrapped(line, 26, 2) for line in lines))
            colours.append("good" if example.captions[0][1] else "bad")
    if not images:
        return []
    sheet = contact_sheet(images, captions, colours)
    text = "Images with the captions that the model ranks first; green where the first is the image's own."
    return [Section("Captions of images", text, figures=[("retrieved captions", sheet)])]
