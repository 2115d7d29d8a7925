"""Plain DataLoaders given to a Trainer: they hand out what the module reads."""

from __future__ import annotations

from typing import Any

from lightning_clip.data.captions import first_caption
from lightning_clip.data.column_check import without_missing_views
from lightning_clip.data.plain_loaders import Items, adopt

__all__ = ["adopt_loaders"]


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
