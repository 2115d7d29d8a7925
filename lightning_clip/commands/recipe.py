"""A recipe without its run: module and data, not built, and the Trainer's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

from lightning_clip.commands.train import ClipCLI
from lightning_clip.core.errors import InputError
from lightning_clip.core.trust import safe_modules
from lightning_clip.data import ClipDataModule
from lightning_clip.module.clip_module import ClipModule

__all__ = ["Recipe", "read_recipe"]

# Parts of the Trainer that would open files or ask for devices, which a plan has no need of.
_LIVE = ("callbacks", "logger", "plugins", "profiler")


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Args:
        module: its towers are not built yet.
        data: its sources are not opened yet.
        trainer: the Trainer's arguments.
    """

    module: ClipModule
    data: ClipDataModule
    trainer: Mapping[str, Any]

    @property
    def devices(self) -> int:
        """Number of devices over all nodes; 1 where the recipe leaves it open."""
        devices = self.trainer.get("devices", "auto")
        per_node = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
        return per_node * int(self.trainer.get("num_nodes") or 1)

    @property
    def strategy(self) -> str:
        """The strategy's name.

        Raises:
            InputError: it is an object.
        """
        strategy = self.trainer.get("strategy", "auto")
        if not isinstance(strategy, str):
            raise InputError(
                "the recipe's strategy is an object and not a name: name the one to plan for, such as --strategy ddp"
            )
        return strategy

    def samples(self, global_batch_size: int) -> int:
        """Pairs that the run sees: until max_steps or the end of max_epochs, whichever comes first.

        Args:
            global_batch_size: pairs per optimizer step.

        Raises:
            InputError: the recipe has no end, or it depends on data that cannot be opened here.
        """
        steps, epochs = self.trainer.get("max_steps", -1), self.trainer.get("max_epochs")
        ends = [steps * global_batch_size] if steps and steps > 0 else []
        if epochs and epochs > 0:
            try:
                steps_per_epoch = len(self.data.source("train")) // global_batch_size
                ends.append(epochs * steps_per_epoch * global_batch_size)
            except (InputError, OSError) as error:
                if not ends:
                    raise InputError(
                        f"the recipe ends after {epochs} epochs of data that cannot be opened here ({error}): give the pairs "
                        f"seen in all, such as --samples {epochs}e6 for {epochs} times a million"
                    ) from error
        if not ends:
            raise InputError("the recipe has no end: set trainer.max_steps or trainer.max_epochs, or give --samples")
        if min(ends) < 1:
            raise InputError(
                f"the data holds less than one batch of {global_batch_size}: take fewer devices or a smaller batch"
            )
        return int(min(ends))


class _Reading(ClipCLI):
    """Parses as `fit` does, and builds module and data but no Trainer."""

    trains = False

    def instantiate_classes(self) -> None:
        self._without_weights(self.config["fit"]["model"]["init_args"])
        settings = self.config["fit"]["trainer"]
        if not hasattr(settings, "as_dict"):
            raise InputError(f"the recipe's trainer {settings!r} must be a mapping, such as trainer: {{max_epochs: 3}}")
        self.trainer_settings = settings.as_dict()
        for name in _LIVE:
            settings[name] = None
        settings["strategy"] = "auto"
        super().instantiate_classes()

    @staticmethod
    def _without_weights(arguments: Any) -> None:
        """Published weights are neither needed nor downloaded."""
        for name in ("image_encoder", "text_encoder"):
            spec = arguments.get(name)
            settings = {"name": spec} if isinstance(spec, str) else spec
            if isinstance(settings, dict) and (settings.get("pretrained") or str(settings.get("name")).startswith("hf")):
                arguments[name] = {**settings, "pretrained": False}

    def instantiate_trainer(self, **_: Any) -> Any:
        """None is needed."""

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Not for a run that never comes."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs."""


@contextmanager
def _few_imports() -> Iterator[None]:
    """Where the command under way imports nothing that files name, the parser does not either."""
    allowed = safe_modules()
    if allowed is None:
        yield
        return
    before = dict(parsing_settings)  # the public setter can only add to what is denied
    try:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
        yield
    finally:
        parsing_settings.update(before)


def read_recipe(configs: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads recipes as `lightning-clip fit` does.

    Args:
        configs: paths, the later overriding the earlier.
        overrides: such as "--data.local_batch_size=64".

    Raises:
        InputError: a wrong recipe, path or setting.
    """
    files = [argument for path in configs for argument in ("--config", path)]
    with _few_imports():
        read = _Reading(["fit", *files, *overrides])
    return Recipe(read.model, read.datamodule, read.trainer_settings)
