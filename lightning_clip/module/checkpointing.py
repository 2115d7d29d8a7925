"""A module's checkpoints: what it was built of is stored as plain mappings, and read again without arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_clip.checkpoints import complete, options_with_base
from lightning_clip.checkpoints.fit import check_fit
from lightning_clip.checkpoints.reading import (
    CLASS_KEY,
    check_location,
    class_of_checkpoint,
    class_path,
    content_of,
    explain_loading,
)
from lightning_clip.checkpoints.writing import write_whole
from lightning_clip.core.plugins import PLUGINS_KEY, loaded_plugins
from lightning_clip.model.recipe import TowerSpec
from lightning_clip.module.optimizing import check_same_optimizer
from lightning_clip.module.settings import recorded
from lightning_clip.training.averaged import store_averaged
from lightning_clip.weights.own import check_stored

if TYPE_CHECKING:
    from lightning_clip.module.building import BuiltOnUse

__all__ = ["load_module", "on_load", "on_save", "stored_arguments"]

_GO_ON = (
    "It was written by another class or under other settings: go on with those, or let a new run begin with its towers "
    "(pretrained: FILE.ckpt)"
)
_OF_LOADING = {"weights_only", "map_location", "hparams_file", "strict"}  # Lightning's; others are constructor arguments
_HPARAMS = "hyper_parameters"
# Lightning's notes on how it recorded hparams for loggers, which are not what builds the module.
_NOTES = ("hparams_name", "hparams_type")


def stored_arguments(module: BuiltOnUse) -> dict[str, Any]:
    """Arguments of the constructor that build the module again; live objects are noted by class, to be passed again."""
    base = module.adaptation.base_arguments
    again = "pretrained" in base or module.adaptation.new_tokens
    # What `pretrained` brings again grows again, and so does a table with separate embeddings for new tokens.
    tokenizer = module._first_tokenizer if again else module.tokenizer
    towers = dict(module.recipe.towers)
    if "pretrained" in base:  # what it brings again is not named, or it would be taken for a new tower
        towers |= {column: replace(spec, tower=None) for column, spec in towers.items() if column not in module._own_columns}
    recipe = replace(module.recipe, towers=towers, objective=module.objective.to_mapping(), tokenizer=tokenizer)
    return {**recipe.to_mapping(module.model), "training": module.training_settings.to_mapping(), **base}


def on_save(module: BuiltOnUse, checkpoint: dict[str, Any]) -> None:
    """Completes a checkpoint that is about to be written, and sees to it that it is written whole."""
    if module._trainer is not None:
        write_whole(module._trainer.strategy)
        module._window.rewind(module._trainer, checkpoint)
        store_averaged(module._trainer, checkpoint)
    checkpoint[_HPARAMS] = {**_own_hyperparameters(module), **module.to_mapping()}
    for note in _NOTES:
        checkpoint.pop(note, None)
    checkpoint[CLASS_KEY] = class_path(type(module))
    checkpoint[PLUGINS_KEY] = loaded_plugins()
    adaptation = module.adaptation
    if adaptation.partial is not None:
        adaptation.partial.shrink(checkpoint)
    if adaptation.cache is not None:
        adaptation.cache.store.flush()


def _own_hyperparameters(module: BuiltOnUse) -> dict[str, Any]:
    """Further arguments of a subclass, kept by `save_hyperparameters`: those of plain types, as only these are read again."""
    # What loggers show is among `hparams`, too, and no argument, whatever it is called.
    shown = recorded(module.recipe, module.objective, module.training_settings)
    signatures = [inspect.signature(base.__init__) for base in type(module).__mro__ if "__init__" in vars(base)]  # type: ignore[misc]
    arguments = {name for signature in signatures for name in signature.parameters}
    found = {name: value for name, value in module.hparams.items() if name in arguments}
    return {name: value for name, value in found.items() if _is_plain(value) and (name not in shown or value != shown[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(part) for part in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def on_load(module: BuiltOnUse, checkpoint: dict[str, Any]) -> None:
    """Puts weights in place that a checkpoint left out, checks that it fits, sets the locks of its step."""
    adaptation = module.adaptation
    module.has_weights = True
    check_same_optimizer(module, checkpoint)
    module._window.load(checkpoint)
    complete(checkpoint, module)
    if module._trainer is not None and module.strict_loading and "state_dict" in checkpoint:  # else said while it is loaded
        check_fit(str(module.trainer.ckpt_path), module.state_dict(), checkpoint["state_dict"], _GO_ON)
    adaptation.resume(module.model, checkpoint)


def load_module(asked: type, path: Any, options: Mapping[str, Any], load: Callable[[type, Any, Mapping[str, Any]], Any]) -> Any:
    """A module from a checkpoint, as the class that wrote it.

    Args:
        asked: the class whose `load_from_checkpoint` was called.
        path: of the checkpoint.
        options: Lightning's, and constructor arguments.
        load: called with the class that wrote the checkpoint, its place and all options.

    Raises:
        InputError: missing, broken or foreign checkpoint, or arguments that do not fit its weights.
    """
    given = {"weights_only": True, "map_location": "cpu", **options}
    check_location(given["map_location"])
    if isinstance(path, str | Path) and "://" not in str(path):
        path = Path(path).expanduser()
    with explain_loading(path, asked):
        writer = class_of_checkpoint(path, asked, given["weights_only"])
        if not options.keys() - _OF_LOADING:
            check_stored(str(path), content_of(path, given["weights_only"]))
        return load(writer, path, _trusting_no_file(path, options_with_base(path, _with_stored_towers(path, given))))


def _trusting_no_file(path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options in which a checkpoint does not say itself that what it names may run code; only the caller may."""
    if "pretrained" in options or not options["weights_only"]:
        return options
    content = content_of(path, weights_only=True)
    stored = content.get(_HPARAMS, {}).get("pretrained")
    trusting = isinstance(stored, Mapping) and stored.get("allow_pickle")
    return {**options, "pretrained": {**stored, "allow_pickle": False}} if trusting else options


def _with_stored_towers(path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options in which `towers`, if it is given, says again what is stored of columns and settings that it does not name."""
    if not isinstance(options.get("towers"), Mapping) or options.get("pretrained") is not None:
        return options
    content = content_of(path, options["weights_only"])
    stored = {column: TowerSpec.of(spec, column) for column, spec in content[_HPARAMS]["towers"].items()}
    given = {column: TowerSpec.of(spec, column) for column, spec in options["towers"].items()}
    towers = {**stored, **{column: spec.over(stored.get(column, TowerSpec())) for column, spec in given.items()}}
    # Those of images and texts are stored as arguments of their own.
    encoders = {f"{column}_encoder": None for column in ("image", "text") if column in given and given[column].is_given}
    return {**encoders, **options, "towers": towers}
