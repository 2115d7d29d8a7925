"""Published figures of known weights, beside which ours are set: tables in this package, each with its source."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.evaluation.run_suite import Outcome

__all__ = ["COMPARED", "Compared", "PublishedFigure", "compared", "known_model", "published_figures", "sources"]

COMPARED = ("set", "protocol", "measure", "ours", "published", "difference", "source")


class PublishedFigure(NamedTuple):
    """What others measured.

    Attributes:
        model: architecture and tag, as open_clip names them.
        dataset: name of the set.
        protocol: by which it is measured.
        measure: of that protocol.
        value: a share in [0, 1].
        source: key of `sources()`.
    """

    model: str
    dataset: str
    protocol: str
    measure: str
    value: float
    source: str


class Compared(NamedTuple):
    """A published figure and ours.

    Attributes:
        ours: in [0, 1].
        published: what others measured.
    """

    ours: float
    published: PublishedFigure


@cache
def _about() -> dict[str, dict[str, Any]]:
    text = (files("lightning_clip.evaluation") / "published/published.yaml").read_text("utf-8")
    content: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return content


def sources() -> dict[str, dict[str, str]]:
    """Key -> title and url of where figures are from."""
    return dict(_about()["sources"])


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """All figures of the package.

    Examples:
        >>> found = [figure for figure in published_figures() if figure.model == "ViT-B-32/openai"]
        >>> next(figure.value for figure in found if figure.dataset == "cifar10")
        0.8983
    """
    return tuple(figure for source in sources() for figure in _read(source))


def _read(source: str) -> Iterator[PublishedFigure]:
    text = (files("lightning_clip.evaluation") / f"published/{source}.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        model = row.pop("model")
        for column, cell in row.items():
            if cell:
                yield PublishedFigure(model, *column.split(" "), float(cell), source)  # type: ignore[call-arg]


def known_model(source: str) -> str:
    """The name under which figures of weights are published.

    Args:
        source: weights as the command line names them (`open_clip:ViT-B-32/openai`, `hf:openai/clip-vit-base-patch32`), or the
            name itself.

    Raises:
        InputError: none are known here.

    Examples:
        >>> known_model("hf:openai/clip-vit-base-patch32"), known_model("open_clip:ViT-B-32-quickgelu/openai")
        ('ViT-B-32/openai', 'ViT-B-32/openai')
    """
    name = source.partition(":")[2] if source.startswith(("open_clip:", "hf:")) else source
    name = str(_about()["names"].get(name, name)).replace("-quickgelu/", "/")
    known = list(dict.fromkeys(figure.model for figure in published_figures()))
    if name not in known:
        raise InputError(
            f"no figures are published here for weights {source!r}: give --published NAME if they are known by another name, "
            f"or omit --published. {nearest(name, known)}"
        )
    return name


def compared(outcome: Outcome, model: str, published_as: str) -> list[Compared]:
    """Our figures beside those that are published, in the order of the suite.

    Args:
        outcome: of `run_suite`.
        model: its name there.
        published_as: of `known_model`.
    """
    found = []
    for name, of_set in outcome.results.items():
        for label, results in of_set.items():
            ours = results[model].metrics if model in results else {}
            for figure in published_figures():
                if (figure.model, figure.dataset, figure.protocol) == (published_as, name, label) and figure.measure in ours:
                    found.append(Compared(ours[figure.measure], figure))
    return found
