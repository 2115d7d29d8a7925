"""Several objectives at once: a weighted sum, each logged by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.model.build import Temperature
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective
from lightning_clip.prompts.classifier import ClassNames

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from lightning_clip.model.predictor import Predictor

__all__ = ["WeightedSum", "builders", "each_objective"]


class WeightedSum(Objective):
    """The sum of objectives by their weights. The temperature, and the scores that evaluation asks, are the first one's.

    An objective of weight 0 is watched: it is not computed in training, and evaluation logs it. In evaluation the sum is over
    those that can be scored there, each counting once if their weights are all 0.

    Args:
        terms: name, weight and objective of each; names that repeat get a number.

    Raises:
        InputError: no objective, a negative weight, weights that are all 0, or parts of one name in two objectives.
    """

    def __init__(self, terms: Sequence[tuple[str, float, Objective]]) -> None:
        super().__init__()
        if not terms:
            raise InputError("objective [] is an empty list: name at least one, such as pairs")
        for name, weight, _ in terms:
            in_range(f"the weight of objective {name!r}", weight, 0)
        if not any(weight for _, weight, _ in terms):
            raise InputError(f"the weights of objectives {[name for name, _, _ in terms]} are all 0: nothing would be learned")
        names: list[str] = []
        for name, _, _ in terms:
            names.append(name if name not in names else f"{name}_{1 + sum(other.startswith(name) for other in names)}")
        self.weights = dict(zip(names, (weight for _, weight, _ in terms), strict=True))
        self.terms = nn.ModuleDict(dict(zip(names, (objective for _, _, objective in terms), strict=True)))
        self.scoring_parts = self._first.scoring_parts
        every = (part for term in self.each().values() for part in (*term.training_parts, *term.scoring_parts))
        self.training_parts = frozenset(every) - self.scoring_parts
        self.kept_parts = frozenset().union(*(term.kept_parts for term in self.each().values()))
        self.max_scale = self._first.max_scale
        self.evaluated = any(term.evaluated for term in self.each().values())

    def each(self) -> dict[str, Objective]:
        """The objectives by name."""
        return dict(self.terms.items())  # type: ignore[arg-type]

    # -- columns ----------------------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return _union(term.reads() for term in self.each().values())

    def reads_tokens(self) -> tuple[str, ...]:
        return _union(term.reads_tokens() for term in self.each().values())

    def predicts(self) -> tuple[str, ...]:
        return _union(term.predicts() for term in self.each().values())

    def runs(self) -> tuple[str, ...]:
        return _union(term.runs() for term in self.each().values())

    def takes(self) -> tuple[str, ...]:
        return _union(term.takes() for term in self.each().values())

    def targets(self) -> Mapping[str, Callable[[list[Any]], Any]]:
        return {column: collate for term in self.each().values() for column, collate in term.targets().items()}

    def further_values(self) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for term in self._learned().values():
            found.update(term.further_values())
        return found

    def learned(self) -> list[Objective]:
        """Those with a weight."""
        return list(self._learned().values())

    def builds(self) -> tuple[str, ...]:
        return _union(term.builds() for term in self.each().values())

    # -- before the first step --------------------------------------------------------------------------------------

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        for term in self.each().values():
            term.prepare(data, tokenizer)

    def open(self) -> None:
        for term in self._learned().values():
            term.open()

    def initial_temperature(self) -> Temperature:
        return self._first.initial_temperature()

    def build(self, space: SharedSpace) -> None:
        known: dict[str, str] = {}
        for name, term in self.each().items():
            before = dict(space.parts())
            term.build(space)
            for part, module in space.parts().items():
                if part in known and before.get(part) is not module:
                    raise InputError(
                        f"objectives {known[part]!r} and {name!r} both add a part {part!r} to the model: rename one"
                    )
                if part not in before:
                    known[part] = name

    def learns(self) -> tuple[str, ...]:
        return _union(term.learns() for term in self._learned().values())

    def check_strategy(self, strategy: Strategy, space: SharedSpace) -> None:
        for term in self.each().values():
            term.check_strategy(strategy, space)

    def start(self, predictor: Predictor, data: Any | None, split: str) -> None:
        for term in self.each().values():
            term.start(predictor, data, split)

    def refresh(self, predictor: Predictor, data: Any | None) -> None:
        for term in self.each().values():
            term.refresh(predictor, data)

    def begin_batch(self, number: int) -> None:
        for term in self.each().values():
            term.begin_batch(number)

    # -- in a step --------------------------------------------------------------------------------------------------

    def select(self, space: SharedSpace, batch: PairBatch) -> PairBatch:
        for term in self._learned().values():
            batch = term.select(space, batch)
        return batch

    def after_step(self, space: SharedSpace) -> None:
        for term in self._learned().values():
            term.after_step(space)

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        found = {name: term.rows(space, output, batch) for name, term in self._counted(batch).items()}
        return {name: rows for name, rows in found.items() if rows}

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        found = {}
        for name, term in self._counted(batch).items():
            if made := term.once(space, _of_term(output, name), batch):
                found[name] = {**output.rows.get(name, {}), **made}
        return found

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        counted = self._counted(batch)
        weights = {name: self.weights[name] for name in counted}
        if not any(weights.values()):
            weights = dict.fromkeys(counted, 1.0)
        losses: list[Tensor] = []
        for name, term in counted.items():
            found = term(_of_term(output, name), batch)
            parts[name] = found.pop("loss")
            parts |= {f"{name}_{part}": value for part, value in found.items()}
            losses.append(weights[name] * parts[name])
        return {"loss": torch.stack(losses).sum(), **parts}

    # -- evaluation -------------------------------------------------------------------------------------------------

    def is_given(self, batch: PairBatch) -> bool:
        return bool(self._counted(batch))

    def measure(self, output: ClipOutput, batch: PairBatch) -> None:
        for name, term in self._counted(batch).items():
            term.measure(_of_term(output, name), batch)

    def measured(self) -> Mapping[str, float]:
        return {key: value for term in self.each().values() for key, value in term.measured().items()}

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer | None:
        return self._first.scorer(predictor, class_names, templates)

    def text_scorer(self, predictor: Predictor, text_features: Tensor) -> Scorer | None:
        return self._first.text_scorer(predictor, text_features)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def to_mapping(self) -> Any:
        return [{**term.to_mapping(), "weight": self.weights[name]} for name, term in self.each().items()]

    def inherited(self) -> Any | None:
        kept = {name: term.inherited() for name, term in self.each().items()}
        lasting = [{**found, "weight": self.weights[name] or 1.0} for name, found in kept.items() if found is not None]
        return lasting or None

    @property
    def _first(self) -> Objective:
        return next(iter(self.each().values()))

    def _learned(self) -> dict[str, Objective]:
        """Those with a weight."""
        return {name: term for name, term in self.each().items() if self.weights[name]}

    def _counted(self, batch: PairBatch) -> dict[str, Objective]:
        """Those of the sum: in training those with a weight, in evaluation those that the batch can score."""
        if self.training:
            return self._learned()
        return {name: term for name, term in self.each().items() if term.evaluated and term.is_given(batch)}


def each_objective(objective: Objective) -> list[Objective]:
    """The objectives of a sum, or the one itself.

    Args:
        objective: of a module.
    """
    return list(objective.each().values()) if isinstance(objective, WeightedSum) else [objective]


def builders(objective: Objective) -> dict[str, str]:
    """Each column that gets a tower, with the first objective that asks for it as errors call it.

    Args:
        objective: of a module.

    Examples:
        >>> from lightning_clip.objectives import build_objective
        >>> builders(build_objective("sigmoid"))
        {'image': "objective 'pairs'", 'text': "objective 'pairs'"}
    """
    if isinstance(objective, WeightedSum):
        named = objective.each()
    else:
        named = {objective.to_mapping().get("name", type(objective).__name__): objective}
    found: dict[str, str] = {}
    for name, term in named.items():
        found |= {column: f"objective {name!r}" for column in term.builds() if column not in found}
    return found


def _of_term(output: ClipOutput, name: str) -> ClipOutput:
    """The output with the rows of one objective beside those that a hook returned."""
    return output._replace(rows={**output.rows, **output.rows.get(name, {})})


def _union(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in names for name in part))
