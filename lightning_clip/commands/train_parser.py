"""The argument parser of the Trainer's commands: short help, and errors in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import lightning.pytorch as pl
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_clip.commands.parser_words import arguments_of, explained_setting
from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
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
        raise self._explained(message)

    def _is_rare(self, name: str) -> bool:
        return not self.full_help and name.startswith("trainer.") and name not in _SHOWN

    def _explained(self, message: str) -> InputError:
        """The error in plain words, with the setting that was meant."""
        if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
            check_import(denied[1])
        return explained_setting(message, self._options())

    def _options(self) -> set[str]:
        """All settings with their sections; those of the model are its class's own."""
        subcommands = getattr(self._subcommands_action, "_name_parser_map", {}).values()
        found = {action.dest for parser in (self, *subcommands) for action in parser._actions}
        model = {f"model.{name}" for name in arguments_of("lightning_clip.ClipModule")}
        return {name for name in found if not name.endswith("help") and not name.startswith("==")} | model
