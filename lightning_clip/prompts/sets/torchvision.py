"""Evaluation sets that torchvision reads, by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.decoding import from_pil
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.known import register_opened
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.names import CLASS_NAME_SETS, ClassNames, class_names
from lightning_clip.prompts.sets.opening import TorchvisionSet, opened
from lightning_clip.prompts.sets.paper_words import in_the_papers_words, paper_class_names
from lightning_clip.prompts.sets.splits import drawn, labels_in_order
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__ = ["TorchvisionSource"]

_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_WITH_VAL = {**_TRAIN_TEST, "val": {"split": "val"}}
_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}


class TorchvisionSource(PairSource):
    """A torchvision dataset of images and class numbers as pairs without captions.

    Args:
        dataset: its items are (image, label): a PIL image, an array (H, W) or (H, W, 3), or a tensor (C, H, W), uint8.
        split: part of the keys, as in "test/17".
        places: the samples used, in this order; None for all.
    """

    def __init__(self, dataset: Any, split: str = "test", places: Sequence[int] | np.ndarray | None = None) -> None:
        self.dataset, self.split = dataset, split
        self.places = None if places is None else np.asarray(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.dataset) if self.places is None else len(self.places)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = index if self.places is None else int(self.places[index])
        picture, label = self.dataset[place]
        return Pair(_pixels(picture), (), key=f"{self.split}/{place}", label=None if label is None else int(label))

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


_SETS = {
    "caltech101": TorchvisionSet(
        "Caltech101", "caltech101", None, "y", 30,
        lambda dataset: dataset.categories,
    ),
    "cifar10": TorchvisionSet("CIFAR10", "cifar-10-batches-py", _BY_FLAG),
    "cifar100": TorchvisionSet("CIFAR100", "cifar-100-python", _BY_FLAG),
    "country211": TorchvisionSet("Country211", "country211", {**_TRAIN_TEST, "val": {"split": "valid"}}),
    "dtd": TorchvisionSet("DTD", "dtd", _WITH_VAL),
    "eurosat": TorchvisionSet("EuroSAT", "eurosat", None, "targets", 2 / 3),
    "fashion_mnist": TorchvisionSet("FashionMNIST", "FashionMNIST/raw", _BY_FLAG),
    "fer2013": TorchvisionSet("FER2013", "fer2013", _TRAIN_TEST, fetchable=False),
    "fgvc_aircraft": TorchvisionSet("FGVCAircraft", "fgvc-aircraft-2013b", _WITH_VAL),
    "flowers102": TorchvisionSet("Flowers102", "flowers-102", _WITH_VAL),
    "food101": TorchvisionSet("Food101", "food-101", _TRAIN_TEST),
    "gtsrb": TorchvisionSet("GTSRB", "gtsrb", _TRAIN_TEST),
    "mnist": TorchvisionSet("MNIST", "MNIST/raw", _BY_FLAG),
    "pcam": TorchvisionSet("PCAM", "pcam", _WITH_VAL),
    "pets": TorchvisionSet("OxfordIIITPet", "oxford-iiit-pet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "rendered_sst2": TorchvisionSet("RenderedSST2", "rendered-sst2", _WITH_VAL),
    "stanford_cars": TorchvisionSet("StanfordCars", "stanford_cars", _TRAIN_TEST, fetchable=False),
    "stl10": TorchvisionSet("STL10", "stl10_binary", _TRAIN_TEST),
    "sun397": TorchvisionSet("SUN397", "SUN397", None, "_labels", 0.5),
    "svhn": TorchvisionSet("SVHN", "", _TRAIN_TEST),
}  # fmt: skip


def _opened(name: str, root: Path, download: bool) -> EvaluationSet | None:
    """One of `_SETS`; the test split is opened at once, the others when they are first used.

    Args:
        name: in `_SETS`.
        root: torchvision's root.
        download: fetches what is missing, from where torchvision does; None where it cannot.

    Raises:
        InputError: data that is missing or broken, or cannot be downloaded.
    """
    spec = _SETS[name]
    if download and not spec.fetchable and not (root / spec.folder).exists():
        return None
    test = _split(name, root, download, "test")
    own = class_names(name) if name in CLASS_NAME_SETS else _spoken(name, spec.words(test.dataset))
    later = {split: partial(_split, name, root, download, split) for split in spec.splits or {"train"}}
    train, val = (LazySource(later[split]) if split in later else None for split in ("train", "val"))
    return EvaluationSet(test, own, SET_TEMPLATES[name], train, val)


for _name in _SETS:
    register_opened(_name, partial(_opened, _name))


def _spoken(name: str, own: Sequence[str]) -> ClassNames:
    """The paper's words for a set's own class names."""
    if name == "country211" and len(own) == len(paper_class_names(name)):  # codes, in the order of the paper's names
        return paper_class_names(name)
    return list(in_the_papers_words(name, own))


def _split(name: str, root: Path, download: bool, split: str) -> TorchvisionSource:
    spec = _SETS[name]
    dataset = opened(name, spec, root, download, spec.splits[split] if spec.splits else {})
    if spec.splits is None:
        return TorchvisionSource(dataset, split, drawn(labels_in_order(dataset, spec.labels), spec.train_share)[split])
    if not len(dataset):
        raise InputError(f"{split} split of {name!r} in {str(root / spec.folder)!r} is empty: put its images there")
    if dataset[0][1] is None:
        raise InputError(
            f"{split} split of {name!r} has no labels: put the file that has them into {str(root / spec.folder)!r}"
        )
    return TorchvisionSource(dataset, split)


def _pixels(picture: Any) -> Tensor:
    """An image of any of torchvision's kinds -> uint8 (3, H, W)."""
    if isinstance(picture, Image.Image):
        return from_pil(picture)
    if isinstance(picture, Tensor):
        tensor = picture if picture.ndim == 3 else picture[None]
    else:
        array = torch.from_numpy(np.ascontiguousarray(picture))
        tensor = array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    if tensor.dtype != torch.uint8 or tensor.shape[0] not in (1, 3):
        raise ValueError(f"picture is {tensor.dtype} {tuple(tensor.shape)}, not uint8 with 1 or 3 channels")
    return tensor.expand(3, -1, -1).contiguous()
