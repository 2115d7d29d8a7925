"""`lightning-clip fit|validate|test|predict`: LightningCLI over a `ClipModule` and its data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException

from lightning_clip.callbacks import LogExamples, SaveOnSignal, WriteFeatures
from lightning_clip.checkpoints.checking import check_checkpoint
from lightning_clip.commands.batch_size import find_batch_size
from lightning_clip.commands.deep_settings import with_deep_settings
from lightning_clip.commands.imports import IMPORT_HELP, recipes_of, with_plugins
from lightning_clip.commands.parser_words import SettingError
from lightning_clip.commands.quiet import quiet
from lightning_clip.commands.resume_path import check_path, found_by_word, is_word
from lightning_clip.commands.run_lock import OnlyRun
from lightning_clip.commands.screen import screen_callbacks, show_results
from lightning_clip.commands.setting_places import place_of_setting
from lightning_clip.commands.train_parser import FullHelp, TrainerParser
from lightning_clip.commands.trainer_errors import explained
from lightning_clip.core.errors import InputError
from lightning_clip.core.recipe_paths import with_recipe_paths
from lightning_clip.core.yaml_files import unset_variable
from lightning_clip.data import ClipDataModule
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.training.allocator import keep_freed_memory

__all__ = ["ClipCLI", "run"]

# `${model.embed_dim}` in a recipe, instead of `${fit.model.embed_dim}`.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class _SaveFitConfig(SaveConfigCallback):
    """Keeps the recipe of the training run: evaluating in the same folder does not overwrite it."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class ClipCLI(LightningCLI):
    """LightningCLI over `ClipModule` (a subclass by `class_path`) and `ClipDataModule`.

    Args:
        arguments: the subcommand and its options.

    Attributes:
        trains: whether `fit` is for training, and so imports what its recipes name.
    """

    trains = True
    _checkpoint: str | None = None

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = arguments[0]
        given = with_plugins(with_recipe_paths(arguments), obeys_recipes=self.trains and self._command == "fit")
        super().__init__(
            ClipModule,
            ClipDataModule,
            args=with_deep_settings(given, ClipModule, ClipDataModule),
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_class=TrainerParser,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": "lightning-clip", "allow_abbrev": False},
            save_config_callback=_SaveFitConfig,
            save_config_kwargs={"overwrite": True},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static
        """The one that is asked for alone: its parser takes longer to make than all the rest of reading a recipe."""
        known = LightningCLI.subcommands()
        return {self._command: known[self._command]} if self._command in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--find-batch-size",
            action="store_true",
            help="First find the largest local_batch_size that fits into memory, then train with it.",
        )
        parser.add_argument("--import", dest="imports", type=list[str], default=[], metavar="MODULE|FILE.py", help=IMPORT_HELP)
        parser.add_argument("--help-all", action=FullHelp, help="Show every option, the Trainer's included, and exit.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for flag, path in pairwise(args):
            if flag == "--ckpt_path" and path != "null" and not is_word(path) and "://" not in path:
                check_path(path)
        try:
            self.config = parser.parse_args(args)
        except OmegaConfBaseException as error:
            raise self._unresolved(error, args) from error
        except SettingError as error:
            place = place_of_setting(error.key, list(recipes_of(args)), args)
            raise InputError(f"{place}: {error}" if place else str(error)) from error
        except InputError:
            raise
        except Exception as error:  # the parser's, on values and keys of kinds that it did not expect
            raise InputError(f"the recipe cannot be read ({type(error).__name__}: {str(error)[:300]})") from error

    @staticmethod
    def _unresolved(error: OmegaConfBaseException, args: Sequence[str]) -> InputError:
        """A reference of a recipe to what is not there, such as a variable of the environment."""
        key = str(error.full_key).partition(".")[2]
        place = place_of_setting(key, list(recipes_of(args)), args)
        variable = unset_variable(str(error))
        told = f"needs {variable}, or give --{key}=..." if variable else str(error).splitlines()[0]
        return InputError(f"{place}: {key} {told}" if place else f"{key} {told}")

    def _check_checkpoint(self) -> None:
        """What --ckpt_path names is looked at before anything is built."""
        self._checkpoint = self._get(self.config, "ckpt_path")
        if self._checkpoint is None or is_word(str(self._checkpoint)) or "://" in str(self._checkpoint):
            return
        found = check_path(str(self._checkpoint))
        self._checkpoint = str(found)
        if found.is_file() and self._get(self.config, "weights_only"):
            check_checkpoint(found)

    def _look_for_checkpoint(self, command: str) -> None:
        """What --ckpt_path says by a word is looked for when the Trainer is there."""
        if self._checkpoint is not None and is_word(self._checkpoint):
            self._checkpoint = found_by_word(self._checkpoint, self.trainer, command)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "ckpt_path": self._checkpoint}

    def instantiate_classes(self) -> None:
        self._check_checkpoint()
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse wraps what a constructor raised
            cause = _constructor_error(error)
            if cause is error:
                if "`fsdp`" in str(error):  # the Trainer itself rejects it on a CPU, before a module can
                    raise InputError("strategy 'fsdp' is not for two towers: use 'clip_fsdp2', on CPUs too") from None
                raise
            raise cause from None

    def instantiate_trainer(self, **options: Any) -> Any:
        """With the bar and the table of this package, where the recipe has none of its own."""
        self.trainer_defaults = {"callbacks": screen_callbacks(self._get(self.config_init, "trainer", default={}))}
        return super().instantiate_trainer(**options)

    def _parse_ckpt_path(self) -> None:
        """The recipe decides, not the checkpoint's arguments: what was typed is never overruled silently."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        parser.usage = f"lightning-clip {subcommand} --config RECIPE.yaml [--config MORE.yaml] [--KEY=VALUE ...]"
        parser.set_defaults({"weights_only": True, **({"verbose": False} if subcommand in ("validate", "test") else {})})
        return parser

    def before_fit(self) -> None:
        """Sees to it that a signal ends in a checkpoint, and looks for the batch size where that was asked."""
        if self.trainer.strategy.root_device.type == "cpu":  # type: ignore[attr-defined]
            keep_freed_memory()
        self._watch_signals()
        self._log_examples()
        self.trainer.callbacks.append(OnlyRun())  # type: ignore[attr-defined]
        self._look_for_checkpoint("fit")
        if self._get(self.config, "find_batch_size"):
            find_batch_size(self.trainer, self.model, self.datamodule)

    def _watch_signals(self) -> None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, SaveOnSignal) for callback in callbacks):
            callbacks.append(SaveOnSignal())

    def _log_examples(self) -> None:
        """Loggers get pictures and the report unless the recipe says otherwise; remote ones by its word only."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if self.trainer.loggers and not any(isinstance(callback, LogExamples) for callback in callbacks):
            callbacks.append(LogExamples())

    def before_validate(self) -> None:
        """Random weights are not worth measuring."""
        self._check_weights("validate")
        self._watch_signals()

    def before_test(self) -> None:
        """As for `validate`."""
        self._check_weights("test")
        self._watch_signals()
        self._log_examples()

    def after_validate(self) -> None:
        """What was measured, whole at any width of the terminal."""
        show_results(self.trainer, "val")

    def after_test(self) -> None:
        """As for `validate`."""
        show_results(self.trainer, "test")

    def _check_weights(self, command: str) -> None:
        self._look_for_checkpoint(command)
        if self._checkpoint is None and not getattr(self.model, "has_weights", True):
            raise InputError(
                f"{command} would measure random weights: give a checkpoint (--ckpt_path FILE.ckpt), or a recipe that begins "
                "with trained weights (model.pretrained)"
            )

    def before_predict(self) -> None:
        """Without a writer the predictions would be lost."""
        self._check_weights("predict")
        self._watch_signals()
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, WriteFeatures) for callback in callbacks):
            callbacks.append(WriteFeatures())


def run(arguments: Sequence[str]) -> None:
    """Runs one of the Trainer's subcommands.

    Raises:
        InputError: a wrong recipe, path or combination of settings.
    """
    quiet()
    try:
        ClipCLI(arguments)
    except IsADirectoryError as error:
        raise InputError(
            f"checkpoint {error.filename!r} is a folder, which only the strategy that wrote it reads: make one file of "
            f"it with lightning-clip checkpoint consolidate {error.filename} --output FILE.ckpt"
        ) from error
    except SystemExit as stop:
        if stop.code == 1 and isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's, before or after the training
            raise KeyboardInterrupt from None
        raise
    except InputError:
        raise
    except (MisconfigurationException, FileNotFoundError) as error:
        raise explained(error) or InputError(str(error)) from error
    except Exception as error:
        if "loaded state dict" not in str(error):  # torch's, of an optimizer
            if (line := explained(error, _checkpoint_of(arguments))) is None:
                raise
            raise line from error
        raise InputError(
            f"the optimizer's state in the checkpoint does not fit ({error}): it was written under other rates or locks "
            "(adapt, optimizer). Go on with those, or let a new run begin with its weights (pretrained: FILE.ckpt)"
        ) from error


def _checkpoint_of(arguments: Sequence[str]) -> str | None:
    """What --ckpt_path says."""
    for argument, following in pairwise([*arguments, ""]):
        flag, sign, value = argument.partition("=")
        if flag == "--ckpt_path":
            return value if sign else following
    return None


def _constructor_error(error: BaseException) -> BaseException:
    """The innermost error behind "Does not validate against any of the Union subtypes"."""
    chain, seen = error, {id(error)}
    while str(chain).startswith("Does not validate") and (inner := chain.__cause__ or chain.__context__):
        if id(inner) in seen:
            break
        chain = inner
        seen.add(id(chain))
    return chain
