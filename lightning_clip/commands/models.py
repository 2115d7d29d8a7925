"""`lightning-clip models`: every model that `from_pretrained` reads, with its size, licence and published figures."""

from __future__ import annotations

import argparse
import json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("name", nargs="?", default="", help="only names that hold this text, such as SigLIP2 or ViT-B-32/")
    parser.add_argument("--domain", help="general, medical, 'remote sensing', products, biology, Chinese or multilingual")
    parser.add_argument("--sort", choices=["size", "imagenet"], help="by parameters, or by ImageNet's top-1 (best first)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="all that is known, as JSON")
    shape.add_argument("--markdown", action="store_true", help="as a Markdown table, as in the documentation")


def run(arguments: argparse.Namespace) -> None:
    """Prints the catalogue, or a part of it."""
    from rich.table import Table

    from lightning_clip.reporting.terminal import PlainConsole
    from lightning_clip.weights.catalogue import markdown_table, select

    entries = select(arguments.domain, arguments.name)
    if arguments.sort == "size":
        entries.sort(key=lambda entry: entry.architecture.parameters if entry.architecture else 0)
    elif arguments.sort == "imagenet":
        entries.sort(key=lambda entry: -entry.figures.get("imagenet", -1.0))
    if arguments.json:
        print(json.dumps([entry.to_mapping() for entry in entries], indent=2))
    elif arguments.markdown:
        print(markdown_table(entries))
    else:
        table = Table(title=f"{len(entries)} models", title_style="bold")
        for name, justify in (("model", "left"), ("parameters", "right"), ("ImageNet", "right"), ("licence", "left")):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's own words
        for entry in entries:
            size = "" if entry.architecture is None else f"{entry.architecture.parameters / 1e6:,.0f} M"
            figure = f"{entry.figures['imagenet']:.1f} %" if "imagenet" in entry.figures else ""
            table.add_row(entry.source, size, figure, entry.licence)
        PlainConsole(highlight=False).print(table)
