"""The objective seam: which columns are read, what is added to the model, and the loss of a whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_clip.core.distributed import AcrossRanks
from lightning_clip.core.registry import Registry
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.build import Temperature
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.prompts.classifier import ClassNames

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from lightning_clip.model.predictor import Predictor

__all__ = ["Objective", "objectives"]


class Objective(AcrossRanks, nn.Module, ABC):
    """What is learned from a batch of features. It holds settings; weights of its own stand in the model (`build`).

    Whoever subclasses it writes `reads` and `forward`, the rest has defaults. Under micro-batches `rows` runs inside each
    slice, then `once` and `forward` on the features and rows of the whole batch: sums over the batch belong there.

    Attributes:
        training_parts: names of what `build` adds and only training needs; exports omit it.
        scoring_parts: names of what `build` adds and its scorer reads; treated as `kept_parts`, but omitted as `training_parts`
            where another objective of a sum scores.
        kept_parts: names of what `build` adds and a run that starts from these weights goes on with, such as a decoder; formats
            that can hold them do, others omit them.
        max_scale: upper bound of the inverse temperature, applied after each step.
        batches: number of the batch that is learned from, for draws that depend on neither ranks nor slices.
        evaluated: whether validation and test score it; False for what only training has, such as teachers.
    """

    training_parts: frozenset[str] = frozenset()
    scoring_parts: frozenset[str] = frozenset()
    kept_parts: frozenset[str] = frozenset()
    max_scale: float = 100.0
    batches: int = 0
    evaluated: bool = True

    # -- columns ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of the columns of a batch that it needs."""

    def reads_tokens(self) -> tuple[str, ...]:
        """Those of them whose token features (B, L, W) `rows` needs, in `output.tokens`."""
        return ()

    def predicts(self) -> tuple[str, ...]:
        """Columns that it takes from the batch as they are and that need no tower, such as the texts that it predicts."""
        return ()

    def runs(self) -> tuple[str, ...]:
        """Columns whose towers run in each step: those that are read, and those that parts of its own run."""
        return self.reads()

    def takes(self) -> tuple[str, ...]:
        """Further columns that a batch of training must have, whose values `rows` takes as they are: nothing encodes them."""
        return ()

    def targets(self) -> Mapping[str, Callable[[list[Any]], Any]]:
        """Columns that are learned from and that no tower encodes, such as boxes, each with what puts raw values together."""
        return {}

    def further_values(self) -> Mapping[str, int]:
        """How many values of a column its tower encodes for each sample of a step beside the sample's own, for `plan`."""
        return {}

    def builds(self) -> tuple[str, ...]:
        """Columns that get a tower; towers for others are not built. Those beside `runs` serve only before the first step."""
        return (*self.runs(), *self.takes())

    def lasting_parts(self) -> frozenset[str]:
        """Names of what `build` adds and that belongs to the model beyond training: `kept_parts` and `scoring_parts`."""
        return self.kept_parts | self.scoring_parts

    # -- before the first step --------------------------------------------------------------------------------------

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        """Takes from the data what it is made of, such as class names; called before the towers are built.

        Args:
            data: the run's data module; None where there is none.
            tokenizer: of the text tower; None where no tower reads texts.
        """

    def open(self) -> None:
        """Opens what it learns from, such as teachers; called when a fit begins, before the towers are built."""

    def initial_temperature(self) -> Temperature:
        """How the inverse temperature begins; not learned here, since nothing says that the loss depends on it."""
        return Temperature(learned=False)

    def build(self, space: SharedSpace) -> None:
        """Adds parts of its own to the model, such as `space.decoder = ...`, before strategies see it."""

    def learns(self) -> tuple[str, ...]:
        """How the names of the model's parameters begin that learn; all others are frozen. By default all learn."""
        return ("",)

    def check_strategy(self, strategy: Strategy, space: SharedSpace) -> None:
        """Raises an InputError under a strategy that cannot hold its parts; called when the model is built."""

    def start(self, predictor: Predictor, data: Any | None, split: str) -> None:
        """Checks the data and fills its parts before a fit, and before each evaluation; called without gradients.

        A part that is filled from the towers, which have their weights only now, notes it in a buffer: the next call, also one
        after a checkpoint was read, leaves it as it is.

        Args:
            predictor: of the model.
            data: the run's data module; None where there is none.
            split: "train" before a fit, "val" or "test" before an evaluation.
        """

    def refresh(self, predictor: Predictor, data: Any | None) -> None:
        """Brings up to date what depends on the weights; called in a fit before validations and after epochs.

        Args:
            predictor: of the model.
            data: the run's data module; None where there is none.
        """

    def begin_batch(self, number: int) -> None:
        """Takes note of a batch of training before anything of it is computed.

        Args:
            number: batches that the run has done before.
        """
        self.batches = number

    # -- in a step --------------------------------------------------------------------------------------------------

    def select(self, space: SharedSpace, batch: PairBatch) -> PairBatch:
        """The part of a batch of training that is learned from, chosen before anything is encoded; all of it by default.

        Args:
            space: the model.
            batch: the whole batch on this rank.
        """
        return batch

    def after_step(self, space: SharedSpace) -> None:
        """Lets parts follow the weights, such as a teacher that is their moving average; called after each optimizer step.

        Args:
            space: the model.
        """

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """What is computed for each row with parts of the model: tensors (B, ...) by name; the default is nothing.

        Args:
            space: the model.
            output: features, and tokens of the columns that `reads_tokens` names, of one slice of the batch.
            batch: that slice.
        """
        return {}

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """What is computed once for the whole batch with parts of the model, by name; `forward` finds it among the rows.

        Unlike `rows` its activations stay in memory, and it is not computed again in the backward pass: for what is small, or
        does not grow with the batch, such as a classifier made of prompts.

        Args:
            space: the model.
            output: features and rows of the whole batch on this rank.
            batch: the whole batch on this rank.
        """
        return {}

    @abstractmethod
    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        """The key "loss" () is minimised; other keys are logged beside it.

        Args:
            output: features, `rows` and temperature of the whole batch on this rank.
            batch: the whole batch on this rank.
        """

    # -- evaluation -------------------------------------------------------------------------------------------------

    def is_given(self, batch: PairBatch) -> bool:
        """Whether a batch of evaluation holds all that the loss reads."""
        return all(batch.value(column) is not None for column in (*self.reads(), *self.predicts()))

    def measure(self, output: ClipOutput, batch: PairBatch) -> None:
        """Adds a batch of evaluation to its metrics; the default has none.

        Args:
            output: as for `forward`.
            batch: as for `forward`.
        """

    def measured(self) -> Mapping[str, float]:
        """Its metrics over all batches and ranks since the last call, logged as `val/NAME` or `test/NAME`."""
        return {}

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer | None:
        """A function images -> scores (B, C), which all zero-shot evaluation asks; called wherever the model is by then.

        By default None: similarities to the classes' prompts.
        """
        return None

    def text_scorer(self, predictor: Predictor, text_features: Tensor) -> Scorer | None:
        """A function images -> scores (B, N) against N encoded texts (N, D), which retrieval asks; by default None:
        similarities.
        """
        return None

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def to_mapping(self) -> Any:
        """A plain mapping that builds it again."""
        return objectives.describe(self)

    def inherited(self) -> Any | None:
        """What a run that starts from weights learned so learns unless told otherwise; None for the default, "pairs"."""
        return self.to_mapping()


objectives: Registry[Objective] = Registry("objective")
