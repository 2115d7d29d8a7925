"""`lightning-clip --version`: the versions that a report of a fault should name, read without importing anything heavy."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

__all__ = ["ShowVersion", "versions"]

_BELOW = ("torch", "lightning", "timm", "transformers", "open_clip_torch")


def versions() -> str:
    """This package's version, and in brackets those of Python and of the libraries below."""
    from lightning_clip import __version__

    below = [f"Python {platform.python_version()}"]
    for name in _BELOW:
        try:
            below.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            below.append(f"no {name}")
    return f"lightning-clip {__version__} ({', '.join(below)})"


class ShowVersion(argparse.Action):
    """Prints the versions and exits; they are looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=options.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(versions())
        parser.exit()
