"""The objective seam: which columns are read, what is added to the model, and the loss of a whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_clip.core.distributed import AcrossRanks
from lightning_clip.core.registry import Registry
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.model.build import Temperature
from lightning_clip.model.space import SharedSpace

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["Objective", "objectives"]


class Objective(AcrossRanks, nn.Module, ABC):
    """What is learned from a batch of features. It holds settings; weights of its own stand in the model (`build`).

    Whoever subclasses it writes `reads` and `forward`, the rest has defaults. Under micro-batches `rows` runs inside each
    slice, and `forward` once on the features and rows of the whole batch: sums over the batch belong there.

    Attributes:
        training_parts: names of what `build` adds and only training needs; exports omit it.
        max_scale: upper bound of the inverse temperature, applied after each step.
    """

    training_parts: frozenset[str] = frozenset()
    max_scale: float = 100.0

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of the columns it needs; towers for others are not built."""

    def reads_tokens(self) -> tuple[str, ...]:
        """Those of them whose token features (B, L, W) `rows` needs, in `output.tokens`."""
        return ()

    def initial_temperature(self) -> Temperature:
        """How the inverse temperature begins; not learned here, since nothing says that the loss depends on it."""
        return Temperature(learned=False)

    def build(self, space: SharedSpace) -> None:
        """Adds parts of its own to the model, such as `space.decoder = ...`, before strategies see it."""

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """What is computed for each row with parts of the model: tensors (B, ...) by name; the default is nothing.

        Args:
            space: the model.
            output: features, and tokens of the columns that `reads_tokens` names, of one slice of the batch.
            batch: that slice.
        """
        return {}

    @abstractmethod
    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        """The key "loss" () is minimised; other keys are logged beside it.

        Args:
            output: features, `rows` and temperature of the whole batch on this rank.
            batch: the whole batch on this rank.
        """

    def scorer(
        self, predictor: Predictor, class_names: Sequence[str], templates: str | Sequence[str] = "simple"
    ) -> Callable[[Any], Tensor]:
        """A function images -> scores (B, C), which evaluation asks; by default similarities to the classes' prompts."""
        return predictor.similarity(class_names, templates)

    def is_given(self, batch: PairBatch) -> bool:
        """Whether a batch of evaluation holds all that the loss reads."""
        return all(batch.value(column) is not None for column in self.reads())

    def to_mapping(self) -> Any:
        """A plain mapping that builds it again."""
        return objectives.describe(self)


objectives: Registry[Objective] = Registry("objective")
