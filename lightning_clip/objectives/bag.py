"""`BagObjective`: entries of a vocabulary, such as words or tags, predicted from an image's features; a subclass names them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.training_captions import training_captions
from lightning_clip.data.words import common_entries, inverse_frequencies
from lightning_clip.losses.bags import Bags, bag_loss
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective
from lightning_clip.prompts.classifier import ClassNames, names_of_classes

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["BagObjective"]

log = logging.getLogger(__name__)


class BagObjective(Objective):
    """Predicts from the image which entries of a vocabulary belong to it, by one linear layer on sqrt(D) times its features.

    The vocabulary comes from the training data by frequency before the layer is built, and is kept in the checkpoint. The
    layer's bias begins at the logarithm of each entry's frequency. No text tower is needed.

    Args:
        size: the most entries of a vocabulary that is taken from the data, at least 1.
        vocabulary: entry -> weight, or a list of entries; None takes it from the data.
        prediction: "softmax" over the vocabulary, or "binary", each entry for itself.

    Raises:
        InputError: a setting out of range, no vocabulary, or one that no caption of the training data meets.
    """

    part: str  # name of the layer in the model
    kind: str  # of the entries, for errors

    def __init__(self, size: int, vocabulary: dict[str, float] | list[str] | None, prediction: str) -> None:
        super().__init__()
        in_range(f"objective {self.part!r}: size", size, 1, whole=True)
        if prediction not in ("softmax", "binary"):
            raise InputError(f"objective {self.part!r}: prediction {prediction!r} must be softmax or binary")
        self.size, self.prediction = size, prediction
        given = dict.fromkeys(vocabulary, 1.0) if isinstance(vocabulary, list | tuple) else vocabulary
        self.vocabulary: dict[str, float] | None = None if given is None else dict(given)
        self.scoring_parts = frozenset({self.part})
        self._places: dict[str, int] = {}

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def entries(self, batch: PairBatch) -> Sequence[Sequence[str]]:
        """The entries of each row, known or not."""

    @abstractmethod
    def entries_of_text(self, text: str) -> Sequence[str]:
        """The entries of a caption, or of a class name."""

    def documents(self, captions: Iterable[tuple[str, ...]]) -> Iterable[Sequence[str]]:
        """The entries of each text that counts as one for frequencies; by default each caption."""
        return (self.entries_of_text(text) for texts in captions for text in texts)

    def weights(self, known: Sequence[str]) -> list[float]:
        """What each of a row's entries counts, relative to its others; by default equal."""
        return [1.0] * len(known)

    # -- the seam ---------------------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return ("image",)

    def predicts(self) -> tuple[str, ...]:
        return ("text",)

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        if self.vocabulary is None:
            counts, number = common_entries(self.documents(training_captions(data)), self.size)
            self.vocabulary = inverse_frequencies(counts, number) or None
        elif self._is_met(data) is False:
            raise InputError(
                f"objective {self.part!r}: none of the {len(self.vocabulary)} {self.kind} of its vocabulary "
                f"({', '.join(list(self.vocabulary)[:3])}, ...) occurs in the training captions: omit vocabulary, which takes "
                "it from these, or correct it"
            )

    def build(self, space: SharedSpace) -> None:
        if not self.vocabulary:
            raise InputError(
                f"objective {self.part!r} has no vocabulary, and there are no training captions to take {self.kind} from: give "
                "training data with captions (no stream), or vocabulary"
            )
        self._places = {entry: place for place, entry in enumerate(self.vocabulary)}
        head = nn.Linear(space.embed_dim, len(self.vocabulary))
        with torch.no_grad():
            head.bias.copy_(-torch.tensor(list(self.vocabulary.values())))
        space.add_module(self.part, head)

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        logits = self.logits(space, output.features["image"])  # (B, D) -> (B, V)
        return {self.part: bag_loss(logits, self.bags(self.entries(batch), logits.device), self.prediction)}  # -> (B,)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"loss": self.mean(output.rows[self.part])}

    def is_given(self, batch: PairBatch) -> bool:
        return super().is_given(batch) and bool(batch.captions) and all(batch.captions)

    def _is_met(self, data: Any | None) -> bool | None:
        """Whether a training caption has an entry of the vocabulary; None where there are no captions."""
        found: bool | None = None
        for document in self.documents(training_captions(data)):
            found = any(entry in (self.vocabulary or ()) for entry in document)
            if found:
                break
        return found

    # -- what it is made of -----------------------------------------------------------------------------------------

    def logits(self, space: SharedSpace, image_features: Tensor) -> Tensor:
        """Unit features (B, D) -> logits (B, V)."""
        found: Tensor = getattr(space, self.part)(image_features * image_features.shape[1] ** 0.5)
        return found

    def bags(self, entries: Sequence[Sequence[str]], device: torch.device | None = None) -> Bags:
        """Entries of B rows as the loss takes them; those that are not in the vocabulary are passed over.

        Args:
            entries: of each row, a repeated one counting once.
            device: of the loss.
        """
        rows: list[int] = []
        places: list[int] = []
        shares: list[float] = []
        counts: list[float] = []
        for row, own in enumerate(entries):
            known = [entry for entry in dict.fromkeys(own) if entry in self._places]
            weights = self.weights(known)
            if (total := sum(weights)) > 0:
                rows += [row] * len(known)
                places += [self._places[entry] for entry in known]
                shares += [weight / total for weight in weights]
                counts += [float(len(known))] * len(known)
        at, which = (torch.tensor(part, dtype=torch.int64, device=device) for part in (rows, places))
        return Bags(at, which, torch.tensor(shares, device=device), torch.tensor(counts, device=device))

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer:
        """Images -> scores (B, C): of each class the mean log-probability of its names' entries, weighed as in training.

        The words of a template are those of every class and are passed over. A class without a known entry scores -inf.

        Raises:
            InputError: no class has an entry of the vocabulary.
        """
        names = names_of_classes(class_names)
        bags = self.bags([[entry for name in own for entry in self.entries_of_text(name)] for own in names])
        if not len(bags.rows):
            raise InputError(
                f"none of the {len(names)} class names ({', '.join(own[0] for own in names[:3])}, ...) has an entry in the "
                f"vocabulary of objective {self.part!r}: name the classes as captions do, or score by pairs"
            )
        known = set(bags.rows.tolist())
        if missing := [own[0] for row, own in enumerate(names) if row not in known]:
            log.warning("%d classes have no known %s and are never chosen: %s", len(missing), self.kind, ", ".join(missing[:5]))
        used, columns = torch.unique(bags.entries, return_inverse=True)
        shares = torch.zeros(len(used), len(names)).index_put((columns, bags.rows), bags.shares)  # (U, C)
        unknown = shares.sum(dim=0) == 0

        def scores(images: Any) -> Tensor:
            logits = self.logits(predictor.model, predictor.encode_image(images)).float()  # (B, D) -> (B, V)
            logs = logsigmoid(logits) if self.prediction == "binary" else logits.log_softmax(dim=1)
            found = logs[:, used.to(logs.device)] @ shares.to(logs.device)  # (B, U) @ (U, C) -> (B, C)
            return found.masked_fill(unknown.to(logs.device), -torch.inf)

        return scores
