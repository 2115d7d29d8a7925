"""`lightning-clip completion`: a script that completes commands, options and paths in a shell, made by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from lightning_clip.core.errors import InputError

__all__ = ["add_arguments", "completion_script", "run"]

SHELLS = {
    "bash": "~/.local/share/bash-completion/completions/lightning-clip",
    "zsh": "~/.zfunc/_lightning-clip, and fpath+=~/.zfunc before compinit in ~/.zshrc",
    "tcsh": "~/.lightning-clip.tcsh, and source it in ~/.tcshrc",
}
# What options and arguments take that is no path.
_WORDS = frozenset({"labels", "text", "texts", "templates", "where", "set", "column", "words", "imports"})
_FOLDERS = frozenset({"cache"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    places = "; ".join(f"for {shell} into {place}" for shell, place in SHELLS.items())
    parser.add_argument("shell", choices=sorted(SHELLS), help=f"write what is printed {places}".replace("%", "%%"))


def run(arguments: argparse.Namespace) -> None:
    """Prints the script.

    Raises:
        InputError: shtab is not installed.
    """
    print(completion_script(arguments.shell, arguments.build_parser()))


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """What a shell sources to complete `lightning-clip`: without starting Python, so at once.

    Args:
        shell: "bash", "zsh" or "tcsh".
        parser: of all commands; it is changed.

    Raises:
        InputError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError('completion needs shtab: pip install "lightning-clip[completion]"') from error
    for name, command in _subparsers(parser).items():
        if command.get_default("run") is None and not _subparsers(command):  # LightningCLI reads its arguments
            command.add_argument("recipe", nargs="*")
            for options, choices in _trainer_options(name):
                command.add_argument(*options, choices=choices)
    for leaf in _leaves(parser):
        for action in leaf._actions:
            if _takes_path(action):
                action.complete = shtab.DIRECTORY if action.dest in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    text: str = shtab.complete(parser, shell)
    return text


def _takes_path(action: argparse.Action) -> bool:
    """Whether file names may be what an option or argument takes; those with choices or numbers are told by them."""
    takes_value = action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)
    return takes_value and action.choices is None and action.type is None and action.dest not in _WORDS


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: inner for group in groups for name, inner in group.choices.items()}


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for inner in _subparsers(parser).values():
        yield from _leaves(inner)


def _trainer_options(command: str) -> Iterator[tuple[list[str], list[str] | None]]:
    """Options of one of the Trainer's commands, and what each may be, where that is a list."""
    for action in _trainer_parser(command)._subcommands_action._name_parser_map[command]._actions:
        options = [option for option in action.option_strings if option.startswith("--") and "+" not in option]
        if options:
            yield options, _values(getattr(action, "_typehint", None)) or None
    from lightning_clip.commands.parser_words import arguments_of

    for name in sorted(arguments_of("lightning_clip.ClipModule")):
        yield [f"--model.{name}"], None


def _trainer_parser(command: str) -> Any:
    """LightningCLI's parser as it is before it parses."""
    from lightning_clip.commands.train import ClipCLI

    made = []

    class Making(ClipCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            made.append(parser)
            raise _Made

    with suppress(_Made):
        Making([command])
    return made[0]


class _Made(Exception):
    """The parser is there: nothing is parsed."""


def _values(kind: Any) -> list[str]:
    """What a literal or a flag may be, also as one of several kinds."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for choice in get_args(kind) for value in _values(choice)] if get_origin(kind) in (Union, UnionType) else []
