"""Settings of one tower's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import built, in_range, mapping

__all__ = ["ImageAdapt", "Lock", "LoraSettings", "TextAdapt", "TowerAdapt", "tower_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters: W x becomes W x + alpha / rank * B A x, with W frozen (Hu et al. 2021).

    Args:
        rank: columns of B and rows of A.
        alpha: their weight is alpha / rank.
        targets: last names of the layers that get adapters, such as ["qkv", "proj"]; None takes the linear layers of attention,
            or all linear layers in the blocks where there is no attention.
        dropout: of the adapters' input.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0

    def check(self, where: str) -> None:
        """Raises an InputError for values out of range."""
        in_range(f"{where}.rank", self.rank, 1, whole=True)
        in_range(f"{where}.alpha", self.alpha, 0, open_low=True)
        in_range(f"{where}.dropout", self.dropout, 0, 1, open_high=True)
        if self.targets is not None and (not self.targets or not _is_words(self.targets)):
            raise InputError(
                f"{where}.targets {self.targets!r} must be a list of names of layers, such as ['qkv', 'proj'], or omitted"
            )


@dataclass(frozen=True)
class Lock:
    """What of a tower is frozen.

    Args:
        lock: no gradient, no optimizer state, evaluation mode: normalisation keeps its statistics, nothing is dropped out
            (LiT, Zhai et al. 2022). The head is trained all the same.
        lock_projection: the head, too.
        unlock_last: of a locked tower train the last so many blocks and what follows them.
    """

    lock: bool = False
    lock_projection: bool = False
    unlock_last: int = 0

    def check(self, where: str) -> None:
        """Raises an InputError for values that make no sense."""
        for name in ("lock", "lock_projection"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{where}.{name} {getattr(self, name)!r} must be true or false")
        in_range(f"{where}.unlock_last", self.unlock_last, 0, whole=True)
        if self.unlock_last and not self.lock:
            raise InputError(
                f"{where}.unlock_last {self.unlock_last} opens a locked tower, and this one is not: set lock: true"
            )


@dataclass(frozen=True)
class TowerAdapt(Lock):
    """How a tower is trained.

    Args:
        lock: see `Lock`.
        lock_projection: see `Lock`.
        unlock_last: see `Lock`.
        lr: peak learning rate of the tower and its head; None takes the optimizer's.
        weight_decay: likewise.
        layer_decay: the rate of a block is lr * layer_decay^depth, counted from the top: 0 for the head and what follows the
            blocks, 1 for the last block, and one more than there are blocks for what comes before them (BEiT, Bao et al. 2021).
        lora: adapters instead of the tower's own weights, see `LoraSettings`.
    """

    lr: float | None = None
    weight_decay: float | None = None
    layer_decay: float = 1.0
    lora: LoraSettings | None = None

    def check(self, where: str) -> None:
        super().check(where)
        if self.lr is not None:
            in_range(f"{where}.lr", self.lr, 0, open_low=True)
        if self.weight_decay is not None:
            in_range(f"{where}.weight_decay", self.weight_decay, 0)
        in_range(f"{where}.layer_decay", self.layer_decay, 0, 1, open_low=True)
        if self.lora is not None:
            self.lora.check(f"{where}.lora")
            if self.lock:
                raise InputError(f"{where} has both lock and lora: adapters freeze a tower's own weights anyway, drop lock")


@dataclass(frozen=True)
class ImageAdapt(TowerAdapt):
    """How the image tower is trained.

    Args:
        lock: see `Lock`.
        lock_projection: see `Lock`.
        unlock_last: see `Lock`.
        lr: see `TowerAdapt`.
        weight_decay: see `TowerAdapt`.
        layer_decay: see `TowerAdapt`.
        lora: see `TowerAdapt`.
        cache: folder that keeps the features of a locked tower, so that each picture is decoded and encoded once in all
            epochs and runs. Needs `transform: {augment: false}`.
    """

    cache: str | None = None

    def check(self, where: str) -> None:
        super().check(where)
        if self.cache == "":
            raise InputError(f"{where}.cache {self.cache!r} must be a folder, such as runs/features, or omitted")
        if self.cache is not None and (not self.lock or self.unlock_last):
            raise InputError(f"{where}.cache {self.cache!r} keeps features of a tower that never changes: lock it as a whole")


@dataclass(frozen=True)
class TextAdapt(TowerAdapt):
    """How the text tower is trained, and what it learns to read.

    Args:
        lock: see `Lock`.
        lock_projection: see `Lock`.
        unlock_last: see `Lock`.
        lr: see `TowerAdapt`.
        weight_decay: see `TowerAdapt`.
        layer_decay: see `TowerAdapt`.
        lora: see `TowerAdapt`.
        context_length: more tokens than the tower was made for; old positions keep their embeddings.
        new_tokens: words that become one token each; old tokens keep their embeddings. Under `lock` and `lora` the vectors
            of these words are learned all the same, without weight decay, and the old ones stay as they are.
    """

    context_length: int | None = None
    new_tokens: tuple[str, ...] = ()

    def check(self, where: str) -> None:
        super().check(where)
        if self.context_length is not None:
            in_range(f"{where}.context_length", self.context_length, 1, whole=True)
        if not _is_words(self.new_tokens):
            raise InputError(f"{where}.new_tokens {self.new_tokens!r} must be a list of words, such as ['<sks>']")
        if blank := [token for token in self.new_tokens if not token.strip()]:
            raise InputError(f"{where}.new_tokens has {blank[0]!r}: give words that are not empty")
        if len(set(self.new_tokens)) < len(self.new_tokens):
            raise InputError(f"{where}.new_tokens {list(self.new_tokens)} names a token twice")


def _is_words(value: Any) -> bool:
    """Whether it is a list of strings."""
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def tower_of(cls: type[T], value: Any, where: str) -> T:
    """The settings of a tower from a mapping."""
    if isinstance(value, cls):
        return value
    given = mapping(value, where)
    if given.get("lora") is not None and not isinstance(given["lora"], LoraSettings):
        given["lora"] = built(LoraSettings, mapping(given["lora"], f"{where}.lora"), f"{where}.lora")
    return built(cls, given, where)
