"""The argument parser of the Trainer's commands: short help, and errors in one line."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import lightning.pytorch as pl
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.secrets import hidden
from lightning_clip.core.trust import check_import

__all__ = ["FullHelp", "TrainerParser"]

# Of some forty Trainer options those that a recipe usually sets; `--help-all` shows the rest.
_SHOWN = {
    "trainer",
    *(
        f"trainer.{name}"
        for name in ("max_steps", "max_epochs", "max_time", "devices", "strategy", "precision", "callbacks", "logger")
    ),
}


class _ShortHelp(DefaultHelpFormatter):  # type: ignore[misc]
    """Leaves out the lists of known subclasses, 600 lines for an nn.Module."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action) or ""
        head, found, _ = text.partition(", known subclasses:")
        return head + ")" if found else text


class FullHelp(argparse.Action):
    """`--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=options.get("help"))

    def __call__(self, parser: Any, *_: Any) -> NoReturn:
        parser.full_help = True
        parser.print_help()
        raise SystemExit(0)


class TrainerParser(LightningArgumentParser):
    """LightningCLI's parser, with the rare Trainer options hidden and errors raised as `InputError`."""

    full_help = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _ShortHelp)
        super().__init__(*arguments, **options)

    def add_class_arguments(self, theclass: type, *arguments: Any, **options: Any) -> list[str]:
        """A path among the settings of model or data stays one: jsonargparse would read a tokenizer's .json as settings."""
        if issubclass(theclass, pl.LightningModule | pl.LightningDataModule):
            options["sub_configs"] = False
        added: list[str] = super().add_class_arguments(theclass, *arguments, **options)
        return added

    def format_help(self, *formatter: Any) -> str:
        """The help, without the rare options unless `--help-all` asks for them."""
        hidden = [(action, action.help) for action in self._actions if self._is_rare(action.dest)]
        for action, _ in hidden:  # only meanwhile: a suppressed option would also be left out of config.yaml
            action.help = argparse.SUPPRESS
        try:
            text: str = super().format_help(*formatter)
        finally:
            for action, help_text in hidden:
                action.help = help_text
        return text

    def dump(self, namespace: Any, *arguments: Any, **options: Any) -> str:
        """Settings as text, for config.yaml and --print_config: without secrets."""
        # jsonargparse also asks for a text that it reads again, to resolve references.
        if not options.get("skip_validation") or options.get("skip_link_targets", True):
            namespace = namespace.clone()
            for key, value in list(namespace.items()):
                if isinstance(value, dict | list):
                    namespace[key] = hidden(value)
        text: str = super().dump(namespace, *arguments, **options)
        return text

    def save(self, cfg: Any, path: Any, *arguments: Any, **options: Any) -> None:
        """Settings as a file, config.yaml, which is whole or the one that was there before."""
        if "://" in str(path) or not options.get("overwrite"):
            super().save(cfg, path, *arguments, **options)
            return
        with beside(str(path)) as place:
            place.touch()  # jsonargparse has words of its own for folders without the right to write
            super().save(cfg, str(place), *arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse's inner parsers, whose errors it handles itself
            super().error(message, ex)
        raise InputError(self._explain(message))

    def _is_rare(self, name: str) -> bool:
        return not self.full_help and name.startswith("trainer.") and name not in _SHOWN

    def _explain(self, message: str) -> str:
        """Takes the cause out of jsonargparse's listing of a union's types, and names the nearest key."""
        if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
            check_import(denied[1])
        message = _cause_of_union(message)
        if re.search(r"arguments are required: \w+\.model$", message):
            return "no model: give a recipe, --config RECIPE.yaml (recipes/ has examples), or at least --model=ClipModule"
        if unknown := re.search(r"does not accept option '([\w.]+)'|unrecognized arguments: --([\w.]+)", message):
            key = unknown[1] or unknown[2]
            known = self._options_of(key.rpartition(".")[0])
            message += f" ({nearest(key, known)})" if known else ""
        if refused := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
            message += f" ({nearest(refused[2], _arguments_of(refused[1]))})"
        return message

    def _options_of(self, section: str) -> set[str]:
        subcommands = getattr(self._subcommands_action, "_name_parser_map", {}).values()
        return {
            action.dest
            for parser in (self, *subcommands)
            for action in parser._actions
            if action.dest.rpartition(".")[0] == section and not action.dest.endswith("help")
        }


def _cause_of_union(message: str) -> str:
    """Of the errors of a union's types those that are not about null, in one line with the key."""
    union = re.search(r"\A(Parser key [^\n]*:)\n.*?Errors:\n(.*)\n\s*Given value type:", message, re.S)
    if not union:
        return message
    causes = [cause for cause in re.split(r"(?:\A|\n)  +- ", union[2]) if cause.strip() and "NoneType" not in cause]
    listed = "; or ".join(cause.strip() for cause in causes)
    inner = [key for key in re.findall(r'Parser key "([\w.]+)"', union[2]) if key not in listed]
    given = re.search(r"Given value: (.*)", message)
    said = f" (given: {given[1]})" if inner and given else ""
    return f"{' '.join([union[1], *(f'{key}:' for key in inner)])} {listed}{said}"


def _arguments_of(class_path: str) -> set[str]:
    """The arguments of a class and of those it inherits from."""
    module, _, name = class_path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    signatures = [inspect.signature(base.__init__) for base in found.__mro__ if "__init__" in vars(base)]  # type: ignore[misc]
    return {key for signature in signatures[:2] for key in signature.parameters} - {"self", "args", "kwargs", "arguments"}
