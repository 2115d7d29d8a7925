"""`Attack`: the name of another class, written on a picture (Goh et al. 2021, Multimodal Neurons, "typographic attacks")."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.lettering import Box, Lettering, pasted

__all__ = ["Attack"]


@dataclass(frozen=True)
class Attack:
    """Which word is written on which picture, and how; the same for each picture whenever it is asked.

    Args:
        words: one for each class, in the order of the labels; the word of a class is what the attack wants to be answered.
        target: the word that is written on all pictures; None draws another class for each.
        lettering: how a word is pasted.
        seed: of what is drawn.

    Raises:
        InputError: fewer than two words, one twice, or a target that is none of them.

    Examples:
        >>> import torch
        >>> attack = Attack(["cat", "dog", "bird"])
        >>> attack.target_of(place=0, label=1) in (0, 2)
        True
        >>> attack(torch.zeros(3, 64, 64, dtype=torch.uint8), place=0, label=1)[0].shape
        torch.Size([3, 64, 64])
    """

    words: Sequence[str]
    target: str | None = None
    lettering: Lettering = field(default_factory=Lettering)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.words) < 2:
            raise InputError(f"a typographic attack has words {list(self.words)!r}: give at least two classes to choose among")
        if len(set(self.words)) < len(self.words):
            double = next(word for word in self.words if list(self.words).count(word) > 1)
            raise InputError(f"a typographic attack has the word {double!r} for two classes: give each a word of its own")
        if self.target is not None and self.target not in self.words:
            raise InputError(f"target {self.target!r} is the word of no class: {nearest(self.target, self.words)}")

    def attacks(self, label: int) -> bool:
        """Whether pictures of a class are attacked: those that show the target's own class are not."""
        return self.target is None or self.words[label] != self.target

    def target_of(self, place: int, label: int) -> int:
        """The class whose word is written on a picture.

        Args:
            place: of the picture in its source.
            label: its true class.

        Raises:
            InputError: the true class is the target.
        """
        if self.target is not None:
            if not self.attacks(label):
                raise InputError(
                    f"picture {place} shows {self.target!r}, which is the target of the attack: attack pictures of "
                    "other classes"
                )
            return list(self.words).index(self.target)
        other = random.Random(f"{self.seed} {place}").randrange(len(self.words) - 1)
        return other + (other >= label)

    def __call__(self, picture: Tensor, place: int, label: int) -> tuple[Tensor, Box]:
        """A picture with the word of another class.

        Args:
            picture: uint8 (3, H, W).
            place: as for `target_of`.
            label: its true class.

        Returns:
            uint8 (3, H, W), and where the word is.

        Raises:
            InputError: the true class is the target, or the word is longer than the picture.
        """
        return pasted(picture, self.words[self.target_of(place, label)], self.lettering, self._rng(place))

    def empty(self, picture: Tensor, place: int) -> Tensor:
        """A picture with an empty board in about the same place: what is lost by covering it, without a word.

        Args:
            picture: uint8 (3, H, W).
            place: as for `target_of`.
        """
        return pasted(picture, "", self.lettering, self._rng(place))[0]

    def _rng(self, place: int) -> random.Random:
        return random.Random(f"{self.seed} place {place}")
