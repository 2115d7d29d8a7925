"""`lightning-clip COMMAND ...`: the commands; nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lightning_clip.commands.faults import said
from lightning_clip.commands.hints import of_choice, unknown_arguments
from lightning_clip.commands.imports import add_import_argument, import_plugins
from lightning_clip.commands.positional import with_positional_recipes
from lightning_clip.commands.version import ShowVersion
from lightning_clip.core.errors import InputError
from lightning_clip.core.plain_text import forgiving_streams
from lightning_clip.core.trust import restricted, typed

__all__ = ["build_parser", "main"]

TRAINER_COMMANDS = {
    "fit": "train a model by a recipe",
    "validate": "evaluate a checkpoint on the validation data",
    "test": "evaluate a checkpoint on the test data",
    "predict": "write the features of the test data to a file",
}
# Command -> (one line of help, module, name of the functions add_*arguments and run_*).
_COMMANDS = {
    "recipes": ("list the recipes that ship with the package, or copy one", "recipes", ""),
    "start": ("look at a folder or table, and write a recipe for it", "start", ""),
    "plan": ("what a recipe will cost in time and memory", "plan", ""),
    "compare": ("train recipes on the same data and count the images each needs", "compare", ""),
    "evaluate": ("measure models on a suite of sets, with a report", "evaluate", ""),
    "suites": ("the suites that come with the package, and which of their sets are there", "suites", ""),
    "classify": ("name what is in pictures, by labels of your own", "classify", ""),
    "caption": ("describe pictures in words, by a model that writes captions", "caption", ""),
    "index build": ("make a folder, shards or a table searchable by words and pictures", "index", "build"),
    "index info": ("what an index holds", "index", "info"),
    "search": ("find pictures of an index by words, by pictures, or by both", "search", ""),
    "serve": ("search an index in your browser: a page on this machine, and a REST API", "serve", ""),
    "segment": ("name the areas of pictures, by labels of your own", "segment", ""),
    "detect": ("draw boxes around the things in pictures that labels name", "detect", ""),
    "explain": ("show where in a picture a caption and its words are seen", "explain", ""),
    "imagine": ("make a picture of words, with a model as the judge", "imagine", ""),
    "silence": ("a model that words on pictures mislead less: attention heads that read are silenced", "silence", ""),
    "prompts show": ("the templates of a set, or the names of all sets", "prompts", "show"),
    "prompts search": ("choose the templates that suit a set, one after the other", "prompts", "search"),
    "models": ("every model that from_pretrained reads: size, licence, published figures", "models", ""),
    "export": ("write weights for transformers, open_clip or ONNX, checked against the model", "export", ""),
    "tokenizer train": ("learn a vocabulary from your captions, in any language", "tokenizer", ""),
    "interpolate": ("weights between a model and its fine-tuned form (WiSE-FT)", "weights", "interpolate"),
    "soup": ("average fine-tuned models into one", "weights", "soup"),
    "checkpoint consolidate": ("make one file of a checkpoint that ranks wrote in parts", "checkpoint", "consolidate"),
    "checkpoint merge": ("add adapters (LoRA) or new tokens to the weights of a checkpoint", "checkpoint", "merge"),
    "data pack": ("write shards from a folder, a table or other shards", "pack", ""),
    "data inspect": ("count pairs and draw a contact sheet", "inspect", ""),
    "data curate": ("filter, deduplicate and balance pairs, with a report of every drop", "curate", ""),
    "data teach": ("write shards with teachers' features beside the pairs, for distillation", "teach", ""),
    "completion": ("print what makes your shell complete commands and options", "completion", ""),
    "data verify": ("read and decode everything, list what cannot be used", "verify", ""),
}


class _Parser(argparse.ArgumentParser):
    """Errors in one line; subparsers inherit the class."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {of_choice(message)} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; those of the Trainer are only listed, LightningCLI reads their arguments."""
    parser = _Parser(
        prog="lightning-clip",
        description="Train, evaluate and use CLIP models.",
        epilog="lightning-clip COMMAND --help tells more, e.g. lightning-clip fit --help",
    )
    parser.add_argument("--version", action=ShowVersion, help="versions of this package and of what it stands on")
    parser.set_defaults(build_parser=build_parser)
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    groups: dict[str, Any] = {}
    for command, (text, module, function) in _COMMANDS.items():
        group, _, action = command.partition(" ")
        if action and group not in groups:
            known = [name.split()[1] for name in _COMMANDS if name.startswith(f"{group} ")]
            parent = commands.add_parser(group, help=" or ".join(known))
            groups[group] = parent.add_subparsers(title="actions", metavar="ACTION", required=True)
        leaf = (groups[group] if action else commands).add_parser(
            action or group, help=text, description=text[:1].upper() + text[1:]
        )
        path = f"lightning_clip.commands.{module}"
        suffix = f"_{function}" if function else ""
        getattr(importlib.import_module(path), f"add{suffix}_arguments")(leaf)
        add_import_argument(leaf)
        known = list(leaf._option_string_actions)
        leaf.set_defaults(command=command, run=_lazily(path, f"run{suffix}"), known_options=known)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0, 2 after a mistake of the user's or of the machine (a full disk), or 70 after a fault of this package; all of them
        are printed in one line. `LIGHTNING_CLIP_TRACEBACK=1` shows the traceback instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    forgiving_streams()
    if given and given[0] in (*TRAINER_COMMANDS, "plan"):
        given = with_positional_recipes(given)
    try:
        if given and given[0] in TRAINER_COMMANDS:
            from lightning_clip.commands.train import run

            run(given)
        else:
            parser = build_parser()
            parsed, others = parser.parse_known_args(given)
            if others and not hasattr(parsed, "overrides"):  # plan hands them to the recipe's parser
                parser.error(unknown_arguments(given, others, parsed.known_options))
            parsed.overrides = others
            import_plugins(parsed.imports)
            with typed() if parsed.trust else restricted(parsed.command):
                parsed.run(parsed)
    except BrokenPipeError:  # what reads our lines has enough of them, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("lightning-clip: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return said(error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust, which meets a file that it did not expect
            raise
        return said(InputError(f"a file is damaged in a way that its library cannot read ({error}): write it again"))
    return 0


def _lazily(module: str, function: str) -> Callable[[argparse.Namespace], None]:
    def run(arguments: argparse.Namespace) -> None:
        getattr(importlib.import_module(module), function)(arguments)

    return run
