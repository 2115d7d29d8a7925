"""`lightning-clip explain`: where in a picture a text and its words are seen."""

from __future__ import annotations

import argparse

from lightning_clip.commands.sources import add_model_argument
from lightning_clip.core.errors import existing_path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("image", metavar="IMAGE", help="picture to explain")
    parser.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="WORDS",
        help="one caption is explained word by word; several texts each as a whole, against each other",
    )
    add_model_argument(parser)
    parser.add_argument("--output", required=True, metavar="FILE.png", help="where the picture with its heat goes")
    parser.add_argument(
        "--method", help="attention or gradcam (default: attention for a ViT, gradcam for a convolutional network)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes a picture with a map of heat for each text or word, and prints similarities.

    Raises:
        InputError: a missing file, a picture that does not decode, an empty text, or a model without features of places.
    """
    from lightning_clip.applications.relevance import relevance, word_relevance  # here: --help must not wait for torch
    from lightning_clip.loading import open_predictor
    from lightning_clip.reporting.overlays import heat_figure
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.text import wrapped

    path, texts = existing_path(arguments.image, "image"), list(dict.fromkeys(arguments.text))
    predictor = open_predictor(arguments.checkpoint)
    picture = predictor.read(path)
    if len(texts) == 1:
        found = word_relevance(predictor, picture, texts[0], arguments.method)
    else:
        found = relevance(predictor, picture, texts, arguments.method, against=texts)
    save_figure(
        heat_figure(found.picture, list(found.maps()), [wrapped(text, 32, 3) for text in found.texts]), arguments.output
    )
    for text, similarity in zip(found.texts, found.similarities.tolist(), strict=True):
        print(f"{similarity:+.3f}  {text}")
