"""Where the benchmarks' figures go: each script replaces its own section of docs/benchmarks.md and prints it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_clip.core.atomic import beside

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


class Row(NamedTuple):
    """A line of a table: what was measured, the peer's figure, ours, and the ratio."""

    what: str
    peer: str
    ours: str
    ratio: str


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Recipes write below the current folder: this one while it lasts."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(threads: int, rounds: int) -> str:
    """The circumstances in a sentence."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor()}, {os.cpu_count()} shared cores"
    return f"{device}; {threads} thread{'s' * (threads > 1)}; torch {torch.__version__}; medians of {rounds} rounds."


def write_section(
    name: str,
    title: str,
    circumstances: str,
    rows: list[Row],
    heads: tuple[str, str] = ("open_clip", "lightning_clip"),
    options: str = "",
    last: str = "ratio",
) -> None:
    """Replaces the section of script `name` with `options`, or adds it at the end, and prints it; `last` heads the ratios."""
    lines = [f"## {title}", "", f"`python benchmarks/{name}.py{options and ' '}{options}`: {circumstances}", ""]
    lines += [f"| | {heads[0]} | {heads[1]} | {last} |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.peer} | {row.ours} | {row.ratio} |" for row in rows]
    put_section(f"{name} {options}".strip(), "\n".join(lines))


def put_section(key: str, section: str) -> None:
    """Replaces the section `key` of the page by markdown, or adds it at the end of the page, and prints it."""
    begin, end = f"<!-- begin: {key} -->", f"<!-- end: {key} -->"
    text = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    block = f"{begin}\n{section}\n{end}"
    if begin in text:
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: block, text, flags=re.S)
    else:
        text = text.rstrip() + f"\n\n{block}\n"
    with beside(PAGE) as place:
        place.write_text(text)
    print(section)
