"""Rendered scenes with signs: a shape, a word on a board, or both, with captions that speak of either."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.drawing import COLOURS, SHAPES, Group, render
from lightning_clip.data.lettering import Lettering, pasted
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.data.synthetic import SPLITS, counted, held_out_combinations

__all__ = ["SyntheticSigns"]

SHOWN = ("mixed", "object", "sign", "both")
_SALT = 211  # so that no scene has the seed of one of another source
_WRITTEN = ("a sign that says {}", "the word {}")
# As on the web, where the caption of a poster or a label is often what it says.
_MEANT = ("a {}", "{}")
_OPENINGS = ("", "a picture of ", "there is ")
_BOARDS = ("white", "lightyellow", "lightgrey")
_LETTERS = ("black", "navy", "darkred")


@pair_sources.register("signs")
class SyntheticSigns(PairSource):
    """Rendered scenes of one coloured shape, of a board with a word below, or of both.

    What a board says is a word of `words`, whatever else the scene shows. Captions of boards either quote the word, or are the
    word, as those of posters and packages on the web: by this a model learns to read, and to take a word for its thing.

    Args:
        split: "train" shows seen combinations of colour and shape only, "val" and "test" all of them, from other seeds.
        size: number of scenes.
        show: "object", "sign", "both", or "mixed" for all three.
        words: on boards; None takes the names of the shapes.
        image_size: side in pixels.
        seed: chooses the scenes; scene i is a function of (seed, split, show, i).

    Attributes:
        class_names: names of the shapes, or the words where only signs are shown. "mixed" scenes have the class of the shape
            where there is one, else none.

    Examples:
        >>> scenes = SyntheticSigns("test", size=10, show="sign", words=["stop", "go"])
        >>> scenes[1].label, scenes.class_names, scenes[1].metadata["word"]
        (1, ['stop', 'go'], 'go')
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 100_000,
        *,
        show: str = "mixed",
        words: Sequence[str] | None = None,
        image_size: int = 64,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"signs split {split!r} must be one of {', '.join(SPLITS)}")
        if show not in SHOWN:
            raise InputError(f"signs show {show!r} is unknown: {nearest(show, SHOWN)}")
        in_range("signs size", size, 1, whole=True)
        in_range("signs image_size", image_size, 16, whole=True)
        self.split, self.size, self.show, self.image_size, self.seed = split, size, show, image_size, seed
        self.words = list(SHAPES if words is None else words)
        if len(set(self.words)) < 2 or not all(isinstance(word, str) and word.strip() for word in self.words):
            raise InputError(f"signs words {self.words!r} must be at least two different words, none of them empty")
        self.class_names = self.words if show == "sign" else list(SHAPES)
        hidden = set(held_out_combinations()) if split == "train" else set()
        self._combinations = [pair for pair in product(COLOURS, SHAPES) if pair not in hidden]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.size:
            raise IndexError(index)
        split = SPLITS.index(self.split) + _SALT * (1 + SHOWN.index(self.show))
        rng = random.Random(visit_seed(self.seed, split, index))
        shown = self.show if self.show != "mixed" else rng.choice(SHOWN[1:])
        colour, shape = rng.choice(self._combinations)
        # Labelled sets go round their classes, so that each is met equally often.
        word = self.words[index % len(self.words)] if self.show == "sign" else rng.choice(self.words)
        if self.show in ("object", "both"):
            wanted = SHAPES[index % len(SHAPES)]
            colour, shape = rng.choice([pair for pair in self._combinations if pair[1] == wanted])
        groups = [] if shown == "sign" else [Group(colour, shape, 1, "large", "at the top")]
        image = pil_to_tensor(render(groups, self.image_size, rng))
        if shown != "object":
            image, _ = pasted(image, word, Lettering("bottom", colour=rng.choice(_LETTERS), board=rng.choice(_BOARDS)))
        label = self.class_names.index(word) if self.show == "sign" else None if shown == "sign" else SHAPES.index(shape)
        return Pair(
            image=image,
            captions=(_caption(shown, colour, shape, word, rng),),
            key=f"{self.split}/{index:08d}",
            label=label,
            metadata={} if shown == "object" else {"word": word},
        )


def _caption(shown: str, colour: str, shape: str, word: str, rng: random.Random) -> str:
    """What somebody would say of the scene: of the shape, of the word, or of both."""
    of_shape = counted(1, shape, colour if rng.random() < 0.6 else "")
    of_word = rng.choice(_WRITTEN if rng.random() < 0.5 else _MEANT).replace("{}", word)
    if shown == "both":
        both = [of_shape, rng.choice(_WRITTEN).replace("{}", word)]
        phrase = rng.choice([of_shape, of_word, " and ".join(both)])
    else:
        phrase = of_word if shown == "sign" else of_shape
    return rng.choice(_OPENINGS) + phrase
