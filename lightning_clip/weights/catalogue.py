"""The catalogue of models that `from_pretrained` reads: names, sizes, licences and published figures."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lightning_clip.core.errors import InputError, nearest

__all__ = ["FIGURES", "Architecture", "CatalogueEntry", "catalogue", "domains", "markdown_table", "select"]

# Published figures: column of the table -> how it is printed.
FIGURES = {
    "imagenet": "ImageNet top-1",
    "mean38": "mean of 38 sets",
    "flickr_image": "Flickr30k text to image R@1",
    "coco_image": "COCO text to image R@1",
}


@dataclass(frozen=True)
class Architecture:
    """What an architecture costs, as `benchmarks/architectures.py` measured it.

    Attributes:
        name: open_clip's, or transformers' family.
        image_size: side in pixels.
        context_length: the most tokens of a caption.
        embed_dim: width of the shared space.
        parameters: of the whole model.
        image_parameters: of the image tower with its head.
        image_flops: of one image's forward pass, a multiplication and an addition being two.
        text_flops: of one caption's, padded to `context_length`.
    """

    name: str
    image_size: int
    context_length: int
    embed_dim: int
    parameters: int
    image_parameters: int
    image_flops: int
    text_flops: int


@dataclass(frozen=True)
class CatalogueEntry:
    """A model by the name under which `from_pretrained` opens it.

    Attributes:
        source: the argument of `ClipModule.from_pretrained`; an architecture without published weights ends in "/FILE".
        kind: "tag" (open_clip's published weights), "architecture" (open_clip's without weights), "hub" (a repository), or
            "family" (of transformers, with the size of its default configuration).
        architecture: what it costs; None where it was not measured.
        domain: "general", "medical", "remote sensing", "products", "biology", "Chinese" or "multilingual".
        licence: of the weights as their publisher names it; empty where it was not found.
        licence_from: where that stands.
        figures: published zero-shot figures in percent, by the names of `FIGURES`.
        figures_from: where those stand.
        note: what else one must know.
    """

    source: str
    kind: str
    architecture: Architecture | None
    domain: str
    licence: str
    licence_from: str
    figures: dict[str, float]
    figures_from: str
    note: str

    @property
    def megabytes(self) -> float | None:
        """Size of the weights in float32, in 10^6 bytes."""
        return None if self.architecture is None else self.architecture.parameters * 4 / 1e6

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sizes = {} if self.architecture is None else {**vars(self.architecture), "megabytes": self.megabytes}
        sizes = {"architecture": sizes.pop("name", None), **sizes}
        own = ("source", "kind", "domain", "licence", "licence_from", "figures", "figures_from", "note")
        return {**{key: getattr(self, key) for key in own}, **sizes}


@cache
def catalogue() -> tuple[CatalogueEntry, ...]:
    """All entries: open_clip's tags, its architectures without weights, repositories for a domain, transformers' families.

    Examples:
        >>> entry = next(entry for entry in catalogue() if entry.source == "open_clip:ViT-B-32/openai")
        >>> entry.architecture.parameters, entry.figures["imagenet"]
        (151277313, 63.32)
    """
    architectures = {row["name"]: _architecture(row) for row in _rows("architectures.csv")}
    return tuple(_entry(row, architectures) for row in _rows("models.csv"))


def domains() -> list[str]:
    """All domains, sorted."""
    return sorted({entry.domain for entry in catalogue()}, key=str.lower)


def select(domain: str | None = None, name: str = "") -> list[CatalogueEntry]:
    """Entries of a domain whose name holds a text.

    Args:
        domain: in any case; None takes all.
        name: a part of the source, in any case.

    Raises:
        InputError: no such domain, or no entry left.

    Examples:
        >>> [entry.source for entry in select("biology")]
        ['open_clip:hf-hub:imageomics/bioclip']
    """
    known = {each.lower(): each for each in domains()}
    if domain is not None and domain.lower() not in known:
        raise InputError(f"--domain {domain!r} is none of the catalogue's: {nearest(domain, domains())}")
    found = [
        entry
        for entry in catalogue()
        if (domain is None or entry.domain == known[domain.lower()]) and name.lower() in entry.source.lower()
    ]
    if not found:
        raise InputError(f"no model's name holds {name!r}: omit it to list all, or take a part such as ViT-B-32")
    return found


def markdown_table(entries: Iterable[CatalogueEntry]) -> str:
    """A table for a page: one model a row, what is not known left empty."""
    header = ["model", "pixels", "tokens", "parameters (M)", "GFLOP image + text", "MB", *FIGURES.values(), "licence"]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 2) + "---|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(entry)) + " |" for entry in entries)])


def _cells(entry: CatalogueEntry) -> list[str]:
    sizes = ["", "", "", "", ""]
    if (found := entry.architecture) is not None:
        flops = f"{found.image_flops / 1e9:,.1f} + {found.text_flops / 1e9:,.1f}"
        counts = [str(found.image_size), str(found.context_length), f"{found.parameters / 1e6:,.1f}", flops]
        sizes = [*counts, f"{found.parameters * 4 / 1e6:,.0f}"]
    figures = [f"{entry.figures[name]:.1f}" if name in entry.figures else "" for name in FIGURES]
    return [f"`{entry.source}`", *sizes, *figures, entry.licence]


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("lightning_clip.weights") / "published" / name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def _architecture(row: dict[str, str]) -> Architecture:
    return Architecture(row.pop("name"), **{key: int(value) for key, value in row.items()})


def _entry(row: dict[str, str], architectures: dict[str, Architecture]) -> CatalogueEntry:
    figures = {name: float(row[name]) for name in FIGURES if row[name]}
    words = {key: row[key] for key in ("source", "kind", "domain", "licence", "licence_from", "figures_from", "note")}
    return CatalogueEntry(architecture=architectures.get(row["architecture"]), figures=figures, **words)
