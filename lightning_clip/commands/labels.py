"""Labels on the command line: class names with commas between them, one option each, or one a line of a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["add_label_arguments", "check_several", "labels_of"]

_BYTES = 8 << 20


def add_label_arguments(parser: argparse.ArgumentParser, what: str, example: str) -> None:
    """Adds --labels and --labels-file.

    Args:
        parser: of the command.
        what: the labels are, such as "class names".
        example: two or three of them with commas between.
    """
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="NAMES",
        help=f'{what} with commas between them, such as "{example}"; given several times, each is one label with its commas',
    )
    parser.add_argument("--labels-file", metavar="FILE", help="a text file with one label a line, which may hold commas")


def labels_of(arguments: argparse.Namespace) -> list[str]:
    """The labels that were given, at least one.

    Args:
        arguments: with `labels` and `labels_file`.

    Raises:
        InputError: no label, one twice, both options, or a file that cannot be read.
    """
    given: Sequence[str] = arguments.labels
    if bool(given) == (arguments.labels_file is not None):
        raise InputError('labels are given either by --labels "cat,dog" or by --labels-file FILE: use one of the two')
    if arguments.labels_file is not None:
        where, labels = f"--labels-file {arguments.labels_file!r}", _lines(arguments.labels_file)
    else:
        where = "--labels " + " ".join(map(repr, given))
        labels = [label.strip() for label in (given[0].split(",") if len(given) == 1 else given)]
    labels = [label for label in labels if label]
    if not labels:
        raise InputError(f"{where} names nothing: give what is looked for, separated by commas, such as {_SUCH_AS}")
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"{where} names {repeated!r} twice: give each label once")
    return labels


def check_several(labels: Sequence[str]) -> None:
    """Refuses a single label where labels compete.

    Args:
        labels: as `labels_of` returns them.

    Raises:
        InputError: there is one.
    """
    if len(labels) < 2:
        raise InputError(f"--labels {labels[0]!r} names 1 class: give at least two, separated by commas, such as {_SUCH_AS}")


_SUCH_AS = '--labels "a dog,a cat" (a label with a space needs the quotes)'


def _lines(path: str) -> list[str]:
    from lightning_clip.data.text_files import lines_of  # here: --help must not wait for torch

    found = existing_path(path, "labels file")
    try:
        if found.stat().st_size > _BYTES:
            raise InputError(f"--labels-file {path!r} has {found.stat().st_size:,} bytes: a list of labels may have {_BYTES:,}")
        return list(lines_of(found.read_bytes()))
    except OSError as error:
        raise InputError(f"--labels-file {path!r} cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"--labels-file {path!r} is no text in UTF-8: save it as text, one label a line") from error
