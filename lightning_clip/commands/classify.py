"""`lightning-clip classify`: probabilities of labels for pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_clip.commands.sources import add_model_argument
from lightning_clip.core.errors import InputError, existing_path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture to classify")
    parser.add_argument("--labels", required=True, help='comma-separated class names, such as "cat,dog,bird"')
    add_model_argument(parser)
    parser.add_argument(
        "--templates",
        action="append",
        help='prompt with {} for the label, or the name of a set ("simple", "imagenet"); may be repeated (default: simple)',
    )


def _labels(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if len(labels) < 2:
        raise InputError(f"--labels {text!r} names {len(labels)} class: give at least two, separated by commas")
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"--labels {text!r} names {repeated!r} twice: give each label once")
    return labels


def run(arguments: argparse.Namespace) -> None:
    """Prints the probability of each label for each picture, best first.

    Raises:
        InputError: a missing file, a picture that does not decode, fewer than two labels or one twice, a wrong checkpoint, or
            weights that are not finite.
    """
    import torch  # here and below: --help must not wait for torch
    from rich.table import Table

    from lightning_clip.data.decoding import decode
    from lightning_clip.loading import open_predictor
    from lightning_clip.prompts import resolve_templates
    from lightning_clip.reporting.terminal import PlainConsole

    labels = _labels(arguments.labels)
    given = arguments.templates or ["simple"]
    templates = resolve_templates(given[0] if len(given) == 1 else given)
    pictures = []
    for path in arguments.images:
        try:
            pictures.append(decode(existing_path(path, "image").read_bytes()))
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"image {path!r} cannot be read: {error}. Give a JPEG, PNG, WebP, GIF, BMP or TIFF.") from error
    score = open_predictor(arguments.checkpoint).similarity(labels, templates)
    table = Table()
    table.add_column("image")
    table.add_column("label")
    table.add_column("probability", justify="right")
    for path, picture in zip(arguments.images, pictures, strict=True):
        probabilities = torch.softmax(score(picture.unsqueeze(0))[0], dim=-1)
        order = probabilities.argsort(descending=True).tolist()
        for place, index in enumerate(order):
            name = Path(path).name if place == 0 else ""
            style = "bold" if place == 0 else None
            table.add_row(name, labels[index], f"{100 * probabilities[index]:.1f} %", style=style)
        table.add_section()
    PlainConsole().print(table)
