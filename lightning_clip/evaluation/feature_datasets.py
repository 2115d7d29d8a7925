"""Features as Hugging Face datasets, out and in: what was extracted is published, and what others extracted is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.evaluation.features import Features

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

__all__ = ["check_new", "dataset_of", "features_from_dataset", "features_to_dataset", "write_dataset"]

_OFF = 1e-4  # from unit length, within which features count as normalised: those of half precision are


def features_to_dataset(features: Features) -> Dataset:
    """Features as a dataset of one row an image: `key`, `index`, `label`, `image_features`, `backbone`, and in `text_features`
    those of all captions of the image, where there are some.

    Args:
        features: as `load_features` reads them from the cache of a suite.

    Examples:
        >>> features = Features(torch.eye(2), torch.ones(2, 3), torch.tensor([0, 1]), torch.arange(2), ["a.jpg", "b.jpg"])
        >>> features_to_dataset(features)[1]
        {'key': 'b.jpg', 'index': 1, 'label': 1, 'image_features': [0.0, 1.0], 'backbone': [1.0, 1.0, 1.0]}
    """
    columns: dict[str, Any] = {"key": features.keys or [str(place) for place in features.index.tolist()]}
    columns |= {name: getattr(features, name).numpy() for name in ("index", "label", "image_features", "backbone")}
    if len(features.text_features):
        of_image: dict[int, list[int]] = {place: [] for place in features.index.tolist()}
        for row, place in enumerate(features.text_index.tolist()):
            of_image[place].append(row)
        columns["text_features"] = [features.text_features[rows].numpy() for rows in of_image.values()]
    return dataset_of(columns)


def features_from_dataset(dataset: Dataset) -> Features:
    """Features from a dataset, of this library or of another.

    Args:
        dataset: with `image_features` (N, D); and, if it has them, `backbone` (N, W), for which probes else take
            `image_features`; `label`, numbers of classes or one number for each class; `index`, rising places in the source;
            `key`; `text_features`, of one caption (N, D) or of several of each image. What is not of unit length is normalised.

    Raises:
        InputError: no `image_features`, or columns of other shapes.

    Examples:
        >>> import datasets
        >>> found = features_from_dataset(datasets.Dataset.from_dict({"image_features": [[3.0, 4.0]], "label": [2]}))
        >>> found.image_features, found.label
        (tensor([[0.6000, 0.8000]]), tensor([2]))
    """
    names, data = dataset.column_names, dataset.with_format("numpy")
    if "image_features" not in names:
        raise InputError(f"the dataset has no column 'image_features': {nearest('image_features', names)}")
    image = _unit(_matrix(data, "image_features"))
    count = len(image)
    places = torch.arange(count)
    if "index" in names:
        places = torch.from_numpy(np.asarray(data["index"][:], dtype=np.int64))
    label = torch.full((count,), -1)
    if "label" in names:
        label = torch.from_numpy(np.asarray(data["label"][:], dtype=np.int64))
    texts, of_text = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    if "text_features" in names:
        several = [_rows(row, image.shape[1]) for row in data["text_features"][:]]
        of_text = places.repeat_interleave(torch.tensor([len(row) for row in several]))
        texts = _unit(torch.from_numpy(np.concatenate(several)))
        if texts.shape[1] != image.shape[1]:
            raise InputError(
                f"the dataset's text_features have {texts.shape[1]} numbers and its image_features {image.shape[1]}: give "
                "features of one shared space"
            )
    return Features(
        image_features=image,
        backbone=_matrix(data, "backbone") if "backbone" in names else image,
        label=label,
        index=places,
        keys=[str(key) for key in data["key"][:]] if "key" in names else [],
        text_features=texts,
        text_index=of_text,
    )


def dataset_of(columns: Mapping[str, Any]) -> Dataset:
    """A dataset whose vectors are float32 of a fixed length.

    Args:
        columns: by name: texts, numbers (N,), vectors (N, D), or lists of N matrices (M, D).

    Raises:
        InputError: the library is missing.
    """
    datasets = _library()
    kinds = {name: _kind(datasets, values) for name, values in columns.items()}
    return datasets.Dataset.from_dict(dict(columns), features=datasets.Features(kinds))


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Writes what `datasets.load_from_disk` reads; the folder has its name when it is complete.

    Args:
        dataset: to write.
        folder: that does not exist.

    Raises:
        InputError: it exists, or there is no room.
    """
    check_new(folder)
    with beside(folder, folder=True) as place, _without_bars():
        dataset.save_to_disk(place)


def check_new(folder: Path) -> None:
    """Refuses a folder that exists.

    Args:
        folder: to be.

    Raises:
        InputError: it exists.
    """
    if folder.exists():
        raise InputError(f"features {str(folder)!r} exist and are never replaced: remove the folder or give another name")


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError('Hugging Face datasets need a library: pip install "lightning-clip[datasets]"') from error
    return datasets


def _kind(datasets: Any, values: Sequence[Any] | np.ndarray) -> Any:
    """The type of a column."""
    if isinstance(values, np.ndarray):
        number = datasets.Value("float32" if np.issubdtype(values.dtype, np.floating) else "int64")
        return number if values.ndim == 1 else datasets.List(number, length=values.shape[1])
    if len(values) and isinstance(values[0], np.ndarray):
        return datasets.List(datasets.List(datasets.Value("float32"), length=values[0].shape[1]))
    return datasets.Value("string")


def _rows(value: Any, width: int) -> np.ndarray:
    """Features of an image's captions: of one (D,), of several (M, D), of none -> (M, D)."""
    found = np.asarray(list(value), dtype=np.float32)
    return np.atleast_2d(found) if found.size else np.zeros((0, width), dtype=np.float32)


def _matrix(data: Dataset, name: str) -> Tensor:
    """A column of vectors as float32 (N, W)."""
    try:
        found = np.stack([np.asarray(row, dtype=np.float32) for row in data[name][:]])
    except (ValueError, TypeError) as error:
        raise InputError(f"the dataset's {name!r} must hold one vector of numbers a row, all of one length: {error}") from error
    if found.ndim != 2:
        raise InputError(f"the dataset's {name!r} must hold one vector of numbers a row, and has the shape {found.shape}")
    return torch.from_numpy(found)


def _unit(features: Tensor) -> Tensor:
    """Rows of unit length; those that have it stay as they are, to the bit."""
    off = (features.norm(dim=1, keepdim=True) - 1).abs() > _OFF  # (N, 1)
    return torch.where(off, normalize(features, dim=1), features)


@contextmanager
def _without_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
