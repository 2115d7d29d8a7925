"""`lightning-clip caption`: captions of pictures, or of a set, with scores where it has captions of its own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.commands.sources import add_source_arguments, open_source, positive
from lightning_clip.core.errors import InputError, existing_path

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("pictures", nargs="*", metavar="IMAGE", help="picture to describe; or name a set by --data")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="MODEL",
        help="a .ckpt trained with objective coca or captioning, open_clip:NAME/TAG_OR_FILE of a CoCa, or a folder of these",
    )
    parser.add_argument("--method", default="beam", help="beam, greedy or nucleus (default: %(default)s)")
    parser.add_argument("--beams", type=int, default=4, help="beginnings that beam search keeps (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.9, help="probability that nucleus draws from (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of nucleus (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, help="of a caption (default: 30, or what the text tower takes)")
    parser.add_argument("--seed", type=int, default=0, help="of nucleus (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=32, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="pictures of --data at most")
    parser.add_argument("--json", action="store_true", help="one line of JSON a picture, and one for the scores")
    add_source_arguments(parser)
    next(action for action in parser._actions if action.dest == "data").required = False


def run(arguments: argparse.Namespace) -> None:
    """Prints a caption for each picture; for a set with captions BLEU-4 and CIDEr, too.

    Raises:
        InputError: neither pictures nor a set, a picture that does not decode, or a model that writes no captions.
    """
    from lightning_clip.commands.quiet import quiet
    from lightning_clip.loading import open_predictor
    from lightning_clip.metrics.captions import caption_scores
    from lightning_clip.model.captioner import Captioner

    if bool(arguments.pictures) == (arguments.data is not None):
        raise InputError("caption describes pictures (IMAGE ...) or a set (--data): name one of them")
    quiet()
    options = {key: getattr(arguments, key) for key in ("beams", "top_p", "temperature", "max_tokens", "seed")}
    predictor = open_predictor(arguments.checkpoint)
    captioner = Captioner(predictor, arguments.method, **options)
    names, images, references = _set(arguments, predictor) if arguments.data else _pictures(arguments.pictures, predictor)
    captions: list[str] = []
    for first in range(0, len(names), arguments.batch_size):
        part = images[first : first + arguments.batch_size]
        captions += captioner([image() for image in part], first=first)
        if sys.stderr.isatty():
            print(f"\r{len(captions)} of {len(names)}", end="\n" if len(captions) == len(names) else "", file=sys.stderr)
        for name, caption in zip(names[first:], captions[first:], strict=False):
            print(
                json.dumps({"image": name, "caption": caption}, ensure_ascii=False) if arguments.json else f"{name}: {caption}"
            )
    if references and all(references):
        scores = caption_scores(captions, references)
        print(json.dumps(scores) if arguments.json else ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))


def _pictures(paths: list[str], predictor: Predictor) -> tuple[list[str], list[Any], list[Any]]:
    """Names and pixels of files."""
    images = [predictor.read(existing_path(path, "image")) for path in paths]
    return [Path(path).name for path in paths], [lambda image=image: image for image in images], []


def _set(arguments: argparse.Namespace, predictor: Predictor) -> tuple[list[str], list[Any], list[Any]]:
    """Names, pixels and captions of a source, decoded when they are asked for."""
    source = open_source(arguments)
    count = len(source) if arguments.limit is None else min(arguments.limit, len(source))
    pairs = [source[place] for place in range(count)]

    def pixels(place: int) -> Any:
        image = source[place].image
        if image is None:
            raise InputError(f"sample {pairs[place].key!r} has no image to describe")
        return predictor.read(image)

    names = [pair.key for pair in pairs]
    return names, [lambda place=place: pixels(place) for place in range(count)], [pair.captions for pair in pairs]
