"""`lightning-clip data inspect`: counts and a contact sheet of a source."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from lightning_clip.commands.sources import add_source_arguments, add_workers_argument, open_source

if TYPE_CHECKING:
    from lightning_clip.data.inspect import Inspection

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_source_arguments(parser)
    parser.add_argument("--output", default="contact_sheet.png", help="a picture, or a .html page (default: %(default)s)")
    parser.add_argument("--decode", type=int, default=1000, help="images to decode at most (default: %(default)s)")
    add_workers_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prints counts and writes a contact sheet."""
    from pathlib import Path

    from rich.table import Table

    from lightning_clip.data.inspect import inspect_pairs
    from lightning_clip.data.shards.addresses import shown
    from lightning_clip.reporting import html as report
    from lightning_clip.reporting.plots import save_figure
    from lightning_clip.reporting.sheets import contact_sheet
    from lightning_clip.reporting.terminal import PlainConsole

    found = inspect_pairs(open_source(arguments), images=arguments.decode, workers=arguments.workers)
    rows = _rows(found)
    table = Table("measure", "value", title=shown(arguments.data))
    table.columns[1].justify = "right"
    for measure, value in rows:
        table.add_row(measure, value)
    console = PlainConsole()
    console.print(table)
    if found.languages is None and found.captions:
        console.print('for languages: pip install "lightning-clip[curate]"')
    for place, reason in found.to_look_at()[:10]:
        console.print(f"{place}: {reason}", highlight=False, markup=False, soft_wrap=True)
    figures = []
    if found.samples:
        sheet = contact_sheet([image for image, _ in found.samples], [_short(caption) for _, caption in found.samples])
        figures = [("samples", sheet)]
    if arguments.output.endswith(".html"):
        broken = (
            [report.Section("Samples to look at", table=report.Table(("place", "reason"), found.to_look_at()))]
            if found.broken or found.one_tone
            else []
        )
        sections = [
            report.Section("Counts", table=report.Table(("measure", "value"), rows)),
            report.Section("Samples", figures=figures),
            *broken,
        ]
        report.write_report(Path(arguments.output), "What the data holds", shown(arguments.data), sections)
    elif figures:
        save_figure(figures[0][1], arguments.output)
    else:
        print("no image could be shown: there is no contact sheet")
        return
    print(f"contact sheet: {arguments.output}")


def _rows(found: Inspection) -> list[tuple[str, str]]:
    rows = [
        *([("read as", found.layout)] if found.layout else []),
        ("pairs", f"{found.pairs:,}"),
        ("captions", f"{found.captions:,}"),
        ("captions per image", "{} to {}".format(*found.captions_per_image)),
        ("words per caption, median / most", "{:g} / {}".format(*found.words)),
        ("characters per caption, median / most", "{:g} / {}".format(*found.characters)),
        ("captions that repeat another", f"{found.duplicate_captions:,}"),
    ]
    if found.languages:
        total = found.languages.total()
        rows.append((f"languages of {total:,} captions", _shares(found.languages)))
    for name, shapes in sorted(found.columns.items()):
        most = shapes.most_common(3)
        rows += [(f"column {name}: {shape}", f"{count:,}") for shape, count in most]
        if len(shapes) > len(most):
            rows.append((f"column {name}: other shapes", f"{shapes.total() - sum(count for _, count in most):,}"))
    rows.append(("samples decoded", f"{found.looked_at:,}"))
    rows.append(("images with the bytes of another", f"{found.duplicate_images:,}"))
    if found.labels:
        rows.append(("images with a label", f"{found.labels:,}"))
        rows += [(f"  {name}", f"{count:,}") for name, count in found.classes.most_common(12)]
        if len(found.classes) > 12:
            rows.append((f"  and {len(found.classes) - 12} more classes", f"{sum(found.classes.values()):,} in all"))
    rows += [(f"  {width} x {height} pixels", f"{count:,}") for (width, height), count in found.sizes.most_common(3)]
    for name, ranges in sorted(found.kinds.items()):
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        shown = "" if name == "DICOM" else f", values {low:g} to {high:g}"
        rows.append((f"  {name}{shown}", f"{len(ranges):,}"))
    if found.one_tone:
        rows.append(("images of nearly one tone", f"{len(found.one_tone):,}"))
    rows += [(f"  broken: {reason}", f"{count:,}") for reason, count in found.broken.most_common()]
    return rows


def _shares(languages: Counter[str]) -> str:
    """The most common languages; single captions in which a guess went wrong are others.

    Examples:
        >>> _shares(Counter(en=980, zh=18, fy=1, pcm=1))
        'en 98 %, zh 2 %, others below 1 %'
    """
    total = languages.total()
    named = [(name, count) for name, count in languages.most_common(5) if count >= total / 100] or languages.most_common(1)
    shares = [f"{name} {100 * count / total:.0f} %" for name, count in named]
    left = total - sum(count for _, count in named)
    if left:
        shares.append(f"others {100 * left / total:.0f} %" if left >= total / 100 else "others below 1 %")
    return ", ".join(shares)


def _short(caption: str, width: int = 26, lines: int = 3) -> str:
    return "\n".join(textwrap.wrap(caption, width)[:lines])
