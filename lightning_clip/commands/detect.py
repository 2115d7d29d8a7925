"""`lightning-clip detect`: boxes around the things in pictures that labels name, as overlays and JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.commands.labels import add_label_arguments, labels_of
from lightning_clip.commands.sources import add_model_argument, named_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_clip.applications.detection import Detections

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture to look at, of any size")
    add_label_arguments(parser, "names of what is looked for", "cat,red boat")
    add_model_argument(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where NAME.boxes.png and NAME.boxes.json go")
    parser.add_argument("--templates", default="simple", help="set of prompts, or one with {} (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.2, help="lowest score of a box (default: %(default)s)")
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.7,
        help="of two boxes with one name that share more than this the surer one stays, 1 keeps all (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, default=100, help="boxes of a picture at most (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Writes a PNG and a JSON file for each picture and prints what was found.

    Raises:
        InputError: a missing file, a picture that does not decode, no labels or one twice, two pictures of one name, or a model
            without a detection head.
    """
    from lightning_clip.applications.detection import Detector  # here and below: --help must not wait for torch
    from lightning_clip.loading import open_predictor
    from lightning_clip.prompts import resolve_templates

    labels = labels_of(arguments)
    files = named_pictures(arguments.images, "detect in them")
    predictor = open_predictor(arguments.checkpoint)
    pictures = [predictor.read(path) for path in files.values()]
    detector = Detector(
        predictor,
        labels,
        templates=resolve_templates(arguments.templates),
        threshold=arguments.threshold,
        overlap=arguments.overlap,
        limit=arguments.limit,
    )
    folder = Path(arguments.output).expanduser()
    for path, stem, picture in zip(arguments.images, files, pictures, strict=True):
        found = detector(picture)
        _write(found, picture, folder, stem, path)
        names = ", ".join(f"{entry['name']} {100 * entry['score']:.0f} %" for entry in found.to_mappings())
        print(f"{Path(path).name}: {names or 'nothing'}")


def _write(found: Detections, picture: Tensor, folder: Path, stem: str, path: str) -> None:
    """The overlay, and what was found as JSON: boxes are left, top, right and bottom in pixels of the picture."""
    from lightning_clip.core.atomic import beside
    from lightning_clip.reporting.boxes import box_figure
    from lightning_clip.reporting.plots import save_figure

    save_figure(box_figure(picture, found.boxes, found.labels, found.scores, found.names), folder / f"{stem}.boxes.png")
    height, width = picture.shape[-2:]
    content = {"image": path, "width": width, "height": height, "labels": list(found.names), "found": found.to_mappings()}
    with beside(folder / f"{stem}.boxes.json") as place:
        place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
