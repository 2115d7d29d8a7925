"""Torchvision's datasets from a folder, or one line on what is missing and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_clip.core.errors import InputError

__all__ = ["TorchvisionSet", "opened"]

_ADVICE = "You can use download=True to download it"  # as one writes it in Python


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision names a set, and what it leaves to its users.

    Args:
        kind: the class in `torchvision.datasets`.
        folder: where its files are, below the root: for the error.
        splits: "test", "train" and maybe "val" -> arguments of the class; None where the set comes in one piece.
        labels: of such a set, the attribute that holds the labels.
        train_share: of such a set, the part of each class that is for training; a whole number counts images.
        words: the dataset -> its own class names; unused where `CLASS_NAME_SETS` has them.
        fetchable: False where torchvision cannot download it.
    """

    kind: str
    folder: str
    splits: Mapping[str, Mapping[str, Any]] | None
    labels: str = ""
    train_share: float = 0.0
    words: Callable[[Any], list[str]] = lambda dataset: list(dataset.classes)
    fetchable: bool = True


def opened(name: str, spec: TorchvisionSet, root: Path, download: bool, settings: Mapping[str, Any]) -> Any:
    """A torchvision dataset, downloaded by one process at a time.

    Args:
        name: of the set, for the error.
        spec: how torchvision names it.
        root: torchvision's root.
        download: fetches what is missing.
        settings: arguments of the class besides, such as {"split": "test"}.

    Raises:
        InputError: with the folder that was looked into and what to do.
    """
    from torchvision import datasets  # here: no set is opened by asking for names

    place = root / spec.folder
    by_hand = f"put the data into {str(place)!r} as torchvision.datasets.{spec.kind} has it"
    fetch = download and spec.fetchable
    make = partial(getattr(datasets, spec.kind), str(root), **settings, **({"download": download} if spec.fetchable else {}))
    try:
        if not fetch:
            return make()
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            return make()
    except ImportError as error:
        raise InputError(f"{name!r} needs a package that is not installed ({error}): install it") from error
    except Exception as error:  # missing and broken files, unpacking and the network fail in many ways
        reason = " ".join(str(error).replace(_ADVICE, "").split()).rstrip(".") or type(error).__name__
        if "pip install" in reason:
            raise InputError(f"{name!r} needs a package that is not installed: {reason}") from error
        if fetch:
            raise InputError(
                f"{name!r} could not be downloaded to {str(root)!r} ({reason}): try again, or {by_hand}"
            ) from error
        remedy = f"set download=true, or {by_hand}" if spec.fetchable else f"torchvision cannot download it; {by_hand}"
        raise InputError(f"{name!r} is not in {str(place)!r}, or not whole ({reason}): {remedy}") from error
