"""The score of a module on a set: top-1 of labelled images, or recall of pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.data import ClipDataModule
from lightning_clip.data.sources import PairSource
from lightning_clip.metrics import RetrievalRecall
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["accuracy", "batch_norms", "choose_set", "mean_recall", "measure", "read_sets", "recalibrate", "score"]

_K = 10


def measure(dataset: EvaluationSet) -> str:
    """What `score` takes of a set, in a table's words."""
    return "top-1" if dataset.class_names else f"mean R@{_K}"


def score(module: ClipModule, dataset: EvaluationSet, batch_size: int = 256, num_workers: int = 0) -> float:
    """`accuracy` on a set with classes, `mean_recall` on one of pairs; arguments and errors are theirs."""
    return (accuracy if dataset.class_names else mean_recall)(module, dataset, batch_size, num_workers)


def accuracy(module: ClipModule, dataset: EvaluationSet, batch_size: int = 256, num_workers: int = 0) -> float:
    """Share in [0, 1] of the images whose class is named; images that cannot be read are skipped.

    An objective that learned these very classes answers by what it learned, every other one by words.

    Args:
        module: on any device.
        dataset: with labels.
        batch_size: images encoded at a time.
        num_workers: loader processes.

    Raises:
        InputError: no image has a label among the class names.
    """
    score_classes = module.predictor.scorer(dataset.names, list(dataset.templates), batch_size)
    right = seen = 0
    data = ClipDataModule(local_batch_size=batch_size, num_workers=num_workers).attach(module)
    for batch in data.evaluation_loader(dataset.source, ["image"]):
        rows = batch.label >= 0
        if not rows.any():
            continue
        scores = score_classes(batch.image[rows])
        right += int((scores.argmax(dim=1).cpu() == batch.label[rows]).sum())
        seen += int(rows.sum())
    if not seen:
        raise InputError(f"no image has a label: the set of classes {', '.join(dataset.names[:5])} cannot be scored")
    return right / seen


def mean_recall(module: ClipModule, dataset: EvaluationSet, batch_size: int = 256, num_workers: int = 0) -> float:
    """Mean of recall@10 in both directions, in [0, 1], among the images of a set with all their captions.

    Args:
        module: on any device.
        dataset: with captions; images without any are skipped.
        batch_size: images encoded at a time.
        num_workers: loader processes.

    Raises:
        InputError: no image has a caption.
    """
    metric = RetrievalRecall(ks=(_K,))
    data = ClipDataModule(local_batch_size=batch_size, num_workers=num_workers).attach(module)
    for batch in data.evaluation_loader(dataset.source, ["image"]):
        rows = torch.tensor([row for row, captions in enumerate(batch.captions) if captions])
        if not len(rows):
            continue
        texts = [(caption, int(batch.index[row])) for row in rows for caption in batch.captions[row]]
        image_features = module.encode_image(batch.image[rows], batch_size).cpu()
        text_features = module.encode_text([caption for caption, _ in texts]).cpu()
        metric.update(image_features, batch.index[rows], text_features, torch.tensor([index for _, index in texts]))
    if not metric.update_called:
        raise InputError("no image has a caption, and the set has no classes: it cannot be scored. Give it labels or captions")
    values = metric.compute()
    return float(sum(values[f"{way}/recall@{_K}"] for way in ("image_to_text", "text_to_image"))) / 2


def read_sets(path: str) -> dict[str, EvaluationSet]:
    """The sets of a suite file, as `lightning-clip evaluate` has them; their protocols are not looked at.

    Raises:
        InputError: no such file, no `sets` in it, or a set that `score` has no figure for.
    """
    sets = read_mapping(path, "suite").get("sets")
    if not isinstance(sets, Mapping) or not sets:
        raise InputError(f"suite {path!r} has no sets: give sets: {{NAME: {{name: SOURCE, ...}}}}")
    opened = {
        name: open_evaluation_set({key: value for key, value in spec.items() if key != "protocols"})
        for name, spec in sets.items()
    }
    for name, dataset in opened.items():
        if len(dataset.class_names) == 1 or dataset.multilabel:
            raise InputError(
                f"set {name!r} of suite {path!r} has neither one class an image of several, nor pairs (retrieval: true): "
                "omit it"
            )
    return opened


def choose_set(sets: Mapping[str, EvaluationSet], name: str | None) -> str:
    """The set on which something is chosen: the one of that name, or the only one.

    Raises:
        InputError: no such set, or several and no name.
    """
    if name is None and len(sets) == 1:
        return next(iter(sets))
    if name is None or name not in sets:
        asked = "several sets and none to choose on" if name is None else f"unknown set {name!r} to choose on"
        raise InputError(f"{asked}: {nearest(name or '', sets)}")
    return name


def batch_norms(module: ClipModule) -> list[_BatchNorm]:
    """Layers with statistics of batches, which averaged weights do not have from averaging them."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


def recalibrate(module: ClipModule, source: PairSource, batches: int = 16, batch_size: int = 128) -> None:
    """Measures the statistics of batch normalisation anew on images of a source (Izmailov et al. 2018, section 3.2).

    Args:
        module: its weights stay.
        source: images as in training; captions and labels are not looked at.
        batches: used at most.
        batch_size: images in each.
    """
    layers = batch_norms(module)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
        layer.train()
    data = ClipDataModule(source, local_batch_size=min(batch_size, len(source))).attach(module)  # type: ignore[arg-type]
    with torch.no_grad():
        for number, batch in enumerate(data.train_dataloader()):
            if number == batches:
                break
            image: Tensor = batch.image.to(module.device)
            module.model.encode_image(image)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
