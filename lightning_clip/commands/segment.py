"""`lightning-clip segment`: pictures with their areas named by labels, as overlays and masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.commands.labels import add_label_arguments, check_several, labels_of
from lightning_clip.commands.sources import add_model_argument, named_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.applications.segmentation import Segmentation

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture to segment, of any size")
    add_label_arguments(parser, "names of what may be there", "cat,sofa,wall")
    add_model_argument(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where NAME.overlay.png and NAME.mask.png go")
    parser.add_argument(
        "--method", help="plain, maskclip, sclip, clearclip or naclip (default: naclip for a ViT, plain for a ResNet)"
    )
    parser.add_argument("--templates", default="simple", help="set of prompts, or one with {} (default: %(default)s)")
    parser.add_argument(
        "--resolution", type=int, metavar="PIXELS", help="shorter side to which pictures are brought (default: the model's)"
    )
    parser.add_argument("--overlap", type=float, default=0.5, help="of windows, from 0 to below 1 (default: %(default)s)")
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="STEPS",
        help="follow the picture's edges, in 10 steps say (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="leave pixels unnamed below this probability (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes two PNGs for each picture and prints how much of it each label has.

    Raises:
        InputError: a missing file, a picture that does not decode, fewer than two labels, two pictures of one name, or a model
            without features of places.
    """
    from lightning_clip.applications.segmentation import Segmenter  # here and below: --help must not wait for torch
    from lightning_clip.loading import open_predictor
    from lightning_clip.prompts import resolve_templates

    labels = labels_of(arguments)
    check_several(labels)
    files = named_pictures(arguments.images, "segment them")
    predictor = open_predictor(arguments.checkpoint)
    pictures = [predictor.read(path) for path in files.values()]
    segmenter = Segmenter(
        predictor,
        labels,
        arguments.method,
        templates=resolve_templates(arguments.templates),
        resolution=arguments.resolution,
        overlap=arguments.overlap,
        threshold=arguments.threshold,
        refine=arguments.refine,
    )
    for path, stem, picture in zip(arguments.images, files, pictures, strict=True):
        found = segmenter(picture)
        _write(found, picture, Path(arguments.output).expanduser(), stem)
        shares = sorted(((found.share(index), name) for index, name in enumerate(labels)), reverse=True)
        print(f"{Path(path).name}: " + ", ".join(f"{name} {100 * share:.0f} %" for share, name in shares if share))


def _write(found: Segmentation, picture: Tensor, folder: Path, stem: str) -> None:
    """The overlay, and the mask: a PNG whose pixels are places in the list of labels, 255 for none."""
    import numpy as np
    from PIL import Image

    from lightning_clip.core.atomic import beside
    from lightning_clip.reporting.overlays import area_figure, class_colours
    from lightning_clip.reporting.plots import save_figure

    save_figure(area_figure(picture, found.labels, found.names), folder / f"{stem}.overlay.png")
    mask = Image.fromarray(found.labels.numpy().astype(np.uint8), mode="P")
    colours = [round(255 * part) for colour in class_colours(len(found.names)) for part in colour]
    mask.putpalette(colours + [0] * (3 * 256 - len(colours)))  # a shorter one would be written with fewer bits a pixel
    with beside(folder / f"{stem}.mask.png") as place:
        mask.save(place)
