"""`lightning-clip search`: pictures of an index by words, by pictures, or by both."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.core.errors import InputError, existing_path

if TYPE_CHECKING:
    from lightning_clip.applications.search import Hit, SearchIndex

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("index", metavar="INDEX", help="folder that lightning-clip index build wrote")
    parser.add_argument("text", nargs="?", metavar="WORDS", help='what to look for, such as "a red boat"')
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture to look for; may be repeated")
    parser.add_argument("--and", dest="also", action="append", default=[], metavar="WORDS", help="and this; may be repeated")
    parser.add_argument(
        "--not", dest="without", action="append", default=[], metavar="WORDS", help="but not this; may be repeated"
    )
    parser.add_argument("--caption", default="", metavar="WORDS", help="only pictures whose captions have all these words")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="pictures to show (default: %(default)s)")
    parser.add_argument("--checkpoint", metavar="MODEL", help="where the index's model is, if not where it was")
    parser.add_argument("--json", action="store_true", help="print JSON, a line a picture")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the pictures, as well")


def run(arguments: argparse.Namespace) -> None:
    """Prints the pictures that are most like the query, best first.

    Raises:
        InputError: an empty query, a file that is no picture, no index, or a model that is not the index's.
    """
    from lightning_clip.applications.search import Query, SearchIndex
    from lightning_clip.core.settings import in_range
    from lightning_clip.loading import open_predictor

    in_range("--limit", arguments.limit, 1, 10_000, whole=True)
    index = SearchIndex(arguments.index)
    texts = [text for text in (arguments.text, *arguments.also) if text is not None]
    if not texts and not arguments.image and arguments.caption:
        hits = index.words(arguments.caption, arguments.limit)
    else:
        images = [existing_path(path, "--image") for path in arguments.image]  # opened as the model reads pictures
        query = Query(texts=texts, images=images, without=arguments.without)
        if (model := arguments.checkpoint or index.model) is None:
            raise InputError(f"index {arguments.index!r} does not know its model: name it with --checkpoint")
        predictor = open_predictor(model)
        index.check_model(predictor)
        hits = index.search(query.vector(predictor), arguments.limit, arguments.caption)
    _shown(hits, arguments.json)
    if arguments.sheet:
        _draw(index, hits, arguments.sheet)


def _shown(hits: list[Hit], as_json: bool) -> None:
    if as_json:
        import json

        for hit in hits:
            entry = hit.entry
            known = {"score": round(hit.score, 6), "id": entry.id, "key": entry.key, "place": entry.place}
            print(json.dumps({**known, "captions": entry.captions, "size": [entry.width, entry.height]}, ensure_ascii=False))
        return
    if not hits:
        print("no picture found")
        return
    from rich.table import Table

    from lightning_clip.reporting.terminal import PlainConsole

    table = Table()
    table.add_column("score", justify="right")
    table.add_column("picture", overflow="fold")
    table.add_column("caption")
    for hit in hits:
        table.add_row(f"{hit.score:.3f}", hit.entry.place, hit.entry.captions[0] if hit.entry.captions else "")
    PlainConsole().print(table)


def _draw(index: SearchIndex, hits: list[Hit], path: str) -> None:
    """A contact sheet of the small pictures."""
    from lightning_clip.data.decoding import decode
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.sheets import contact_sheet

    small = [(hit, index.entries.thumbnail(hit.entry.id)) for hit in hits]
    drawn = [(hit, decode(content)) for hit, content in small if content]
    if not drawn:
        raise InputError(f"--sheet {path!r}: nothing to draw, since no picture was found that has a thumbnail")
    titles = [f"{hit.score:.2f} {Path(hit.entry.key).name[:24]}" for hit, _ in drawn]
    save_figure(contact_sheet([pixels.numpy() for _, pixels in drawn], titles), path)
    print(f"sheet: {path}")
