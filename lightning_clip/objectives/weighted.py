"""Several objectives at once: a weighted sum, each logged by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.model.build import Temperature
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["WeightedSum"]


class WeightedSum(Objective):
    """The sum of objectives by their weights. The temperature, and the scores that evaluation asks, are the first one's.

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
        self.training_parts = frozenset().union(*(term.training_parts for term in self.each().values()))
        self.max_scale = self._first.max_scale

    def each(self) -> dict[str, Objective]:
        """The objectives by name."""
        return dict(self.terms.items())  # type: ignore[arg-type]

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for term in self.each().values() for column in term.reads()))

    def reads_tokens(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for term in self.each().values() for column in term.reads_tokens()))

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

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        found = {name: term.rows(space, output, batch) for name, term in self.each().items()}
        return {name: rows for name, rows in found.items() if rows}

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        for name, term in self.each().items():
            own = {**output.rows, **output.rows.get(name, {})}
            found = term(output._replace(rows=own), batch)
            parts[name] = found.pop("loss")
            parts |= {f"{name}_{part}": value for part, value in found.items()}
            losses.append(self.weights[name] * parts[name])
        return {"loss": torch.stack(losses).sum(), **parts}

    def scorer(
        self, predictor: Predictor, class_names: Sequence[str], templates: str | Sequence[str] = "simple"
    ) -> Callable[[Any], Tensor]:
        return self._first.scorer(predictor, class_names, templates)

    def is_given(self, batch: PairBatch) -> bool:
        return all(term.is_given(batch) for term in self.each().values())

    def to_mapping(self) -> Any:
        return [{**term.to_mapping(), "weight": self.weights[name]} for name, term in self.each().items()]

    @property
    def _first(self) -> Objective:
        return next(iter(self.each().values()))
