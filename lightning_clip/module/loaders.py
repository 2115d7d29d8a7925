"""Plain DataLoaders and their batches, given to a Trainer or to the module itself: they become what the module reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.core.types import ClipOutput, KeptFeatures, PairBatch
from lightning_clip.data.captions import first_caption
from lightning_clip.data.column_check import without_missing_views
from lightning_clip.data.plain_loaders import Items, adopt, batch_of_items

__all__ = ["adopt_loaders", "forwarded"]


def adopt_loaders(module: Any) -> None:
    """Sets `collate_fn` of the plain DataLoaders that the Trainer was given, those of training and of evaluation.

    Args:
        module: attached to a Trainer.
    """
    trainer = module.trainer
    if trainer.datamodule is not None:
        return
    loops = {"fit": (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop), "validate": (trainer.validate_loop,)}
    loops |= {"test": (trainer.test_loop,), "predict": (trainer.predict_loop,)}
    for loop in loops[trainer.state.fn.value]:
        source = loop._data_source  # Lightning has no public place for what was given before the loop begins
        if not source.is_module() and source.instance is not None:
            adopt(source.instance, _items(module, train=loop is trainer.fit_loop))


def _items(module: Any, train: bool) -> Items:
    """What makes batches of items, for training or for evaluation."""
    transform = module.image_transform(train)
    columns = dict(module.columns()) if train else without_missing_views(module.columns(), transform)
    return Items(transform, module.choose_caption if train else first_caption, module.tokenizer, columns)


def forwarded(module: Any, inputs: tuple[Any, ...], columns: Mapping[str, Any]) -> ClipOutput:
    """Features of whatever `module(...)` is called with, with gradient.

    Args:
        module: whose towers encode.
        inputs: a `PairBatch`; a batch of a plain loader, (images, texts) or a mapping with image and caption; a mapping of
            columns with "tokens"; or columns as `SharedSpace.forward` takes them.
        columns: further ones by name.

    Raises:
        InputError: a batch of another form.
    """
    given = inputs[0] if len(inputs) == 1 and not columns else None
    if isinstance(given, Mapping) and "tokens" in given:
        return module.model(**given)  # type: ignore[no-any-return]
    if isinstance(given, Mapping | tuple | list) and not isinstance(given, PairBatch | KeptFeatures):
        from lightning.fabric.utilities.apply_func import move_data_to_device

        given = move_data_to_device(batch_of_items(given, _items(module, train=False)), module.device)
    if isinstance(given, PairBatch):
        return module.encode(given)  # type: ignore[no-any-return]
    return module.model(*inputs, **columns)  # type: ignore[no-any-return]
