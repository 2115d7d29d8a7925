"""Hints beside the parser's own errors: the option or command that was meant, or the quotes that are missing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = ["closest", "of_choice", "unknown_arguments"]

_COMMANDS = {"train": "fit", "eval": "evaluate", "infer": "classify", "pretrain": "fit", "finetune": "fit", "resume": "fit"}


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a misspelt one, if any is near.

    Examples:
        >>> closest("--lables", ["--labels", "--top"]), closest("--x", ["--labels", "--top"])
        ('--labels', None)
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def unknown_arguments(given: Sequence[str], others: Sequence[str], known: Iterable[str]) -> str:
    """What to say about arguments that a command does not have.

    Args:
        given: all arguments of the command line.
        others: those of them that are not known, at least one.
        known: options of the command.

    Examples:
        >>> unknown_arguments(["classify", "x.png", "--labels", "a", "dog"], ["dog"], ["--labels"])
        'unrecognized arguments: dog. Put a value with spaces in quotes: --labels "a dog"'
        >>> unknown_arguments(["classify", "x.png", "--lables=a,b"], ["--lables=a,b"], ["--labels"])
        "unrecognized arguments: --lables=a,b, did you mean '--labels'?"
    """
    message, first = f"unrecognized arguments: {' '.join(others)}", others[0]
    if first.startswith("-"):
        found = closest(first.partition("=")[0], known)
        return message + (f", did you mean {found!r}?" if found else "")
    before = list(given[: given.index(first)]) if first in given else []
    option = next((place for place in reversed(range(len(before))) if before[place].startswith("--")), None)
    if option is None or (option == len(before) - 1 and "=" not in before[option]):
        return message
    flag, sign, value = before[option].partition("=")
    words = [*([value] if sign else []), *before[option + 1 :], *others]
    words = words[: next((place for place, word in enumerate(words) if word.startswith("-")), len(words))]
    return f'{message}. Put a value with spaces in quotes: {flag} "{" ".join(words)}"'


def of_choice(message: str) -> str:
    """The parser's error about a wrong command or choice, with the one that was meant.

    Examples:
        >>> of_choice("argument COMMAND: invalid choice: 'fitt' (choose from 'fit', 'test')")
        "argument COMMAND: invalid choice: 'fitt', did you mean 'fit'? (choose from 'fit', 'test')"
    """
    found = re.search(r"invalid choice: '([^']*)'() \(choose from (.*)\)", message)
    if not found:
        return message
    known = re.findall(r"[\w-]+", found[3])
    usual = _COMMANDS.get(found[1])
    name = usual if usual in known else closest(found[1], known)
    return message if name is None else f"{message[: found.start(2)]}, did you mean {name!r}?{message[found.end(2) :]}"
