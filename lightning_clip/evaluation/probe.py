"""Logistic regression on features, as the paper fits it, with the search for its L2 strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_clip.core.errors import InputError

__all__ = ["Probe", "SearchResult", "fit_probe", "search_strength", "stratified_split"]

_STEPS_PER_DECADE, _DECADES = 8, 12  # of the strengths 1e-6 ... 1e6
_SEEDS = (0, 16, 32, 48, 64, 80, 96)  # 1e-6, 1e-4, ..., 1e6


class Probe(NamedTuple):
    """A linear classifier: logits are features @ weight + bias.

    Attributes:
        weight: float64 (W, C).
        bias: float64 (C,).
    """

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Classes int64 (N,).

        Args:
            features: (N, W).
        """
        return self.logits(features).argmax(dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits float64 (N, C).

        Args:
            features: (N, W).
        """
        return features.to(self.weight) @ self.weight + self.bias


def fit_probe(
    features: Tensor,
    label: Tensor,
    num_classes: int,
    strength: float,
    *,
    start: Probe | None = None,
    towards: Tensor | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-7,
) -> Probe:
    r"""Minimises sum_i CE(W^T x_i + b, y_i) + strength / 2 ||W - W_0||^2 by L-BFGS, in float64.

    With W_0 = 0 this is scikit-learn's `LogisticRegression(C=1 / strength)`; the bias is not regularised.

    Args:
        features: (N, W).
        label: int64 (N,) in [0, num_classes); or int64 (N, C) of 1, 0 and -1 (does not count), for a classifier of each class
            by itself, whose loss is the sum over classes of the binary cross-entropies.
        num_classes: C.
        strength: of the L2 penalty, above 0.
        start: where to begin, such as the probe of a neighbouring strength.
        towards: W_0 (W, C), such as a zero-shot classifier; None for zeros.
        max_iterations: of L-BFGS.
        tolerance: largest gradient of the mean loss, in coordinates of equal curvature, at which it stops.

    Raises:
        InputError: a strength that is not positive.

    Examples:
        >>> probe = fit_probe(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), 2, strength=1.0)
        >>> probe.predict(torch.tensor([[2.0], [-2.0]])).tolist()
        [0, 1]
    """
    if not strength > 0:
        raise InputError(f"strength {strength} of a probe must be above 0")
    inputs, bare = features.double(), features.new_zeros(features.shape[1], num_classes, dtype=torch.float64)
    anchor = bare if towards is None else towards.double()
    begin = start or Probe(anchor, bare.new_zeros(num_classes))
    centre = inputs.mean(dim=0)
    inputs = inputs - centre  # the bias takes it up
    shape, inverse = _curvature(inputs, strength)
    shaped, offset = inputs @ shape, inputs @ anchor
    moved = (inverse @ (begin.weight - anchor)).contiguous().requires_grad_(True)
    bias = (begin.bias + centre @ begin.weight).detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [moved, bias], max_iter=max_iterations, tolerance_grad=tolerance, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )
    penalty = strength / (2 * len(inputs))

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = _cross_entropy(offset + shaped @ moved + bias, label) + penalty * (shape @ moved).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    weight = anchor + shape @ moved.detach()
    return Probe(weight, bias.detach() - centre @ weight)


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over images: of one class each, or of each class by itself (N, C)."""
    if label.ndim == 1:
        return cross_entropy(logits, label)
    losses = binary_cross_entropy_with_logits(logits, label.clamp(min=0).to(logits), reduction="none")  # (N, C)
    return (losses * (label >= 0)).sum() / len(label)


def _curvature(inputs: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Coordinates in which the loss is curved alike in all directions, and the way back: W = W_0 + shape V.

    The Hessian of cross-entropy is at most that of inputs^T inputs / 2N (Boehning 1992), of binary ones half of that; L-BFGS
    then needs some ten steps where it took a thousand. The minimum is the same.
    """
    bound = inputs.T @ inputs / (2 * len(inputs))
    values, vectors = torch.linalg.eigh(bound)
    root = (values.clamp(min=0) + strength / len(inputs)).sqrt()
    return (vectors / root) @ vectors.T, (vectors * root) @ vectors.T


class SearchResult(NamedTuple):
    """What a search of the strength found.

    Attributes:
        strength: the best.
        probe: fitted with it on the training part.
        tried: strength -> validation accuracy, rising by strength.
    """

    strength: float
    probe: Probe
    tried: dict[float, float]


def search_strength(
    fit: Callable[[float, Probe | None], Probe], accuracy: Callable[[Probe], float], steps_per_decade: int = _STEPS_PER_DECADE
) -> SearchResult:
    """The paper's parametric binary search (Radford et al. 2021, appendix A.3).

    Seven strengths from 1e-6 to 1e6 first, then at each round the two neighbours of the best at half the distance, down to
    8 steps per decade: about 15 fits instead of 96. Of equal accuracies the stronger penalty wins.

    Args:
        fit: strength and a probe to start from -> probe.
        accuracy: of a probe on the validation part.
        steps_per_decade: resolution, a divisor of 8.
    """
    probes: dict[int, Probe] = {}
    scores: dict[int, float] = {}

    def visit(place: int) -> None:
        if 0 <= place <= _STEPS_PER_DECADE * _DECADES and place not in scores:
            near = min(probes, key=lambda known: abs(known - place), default=None)
            probes[place] = fit(_strength(place), None if near is None else probes[near])
            scores[place] = accuracy(probes[place])

    for place in reversed(_SEEDS):  # strong penalties are fitted fastest and start the weaker ones
        visit(place)
    step = _SEEDS[1] // 2
    while step >= _STEPS_PER_DECADE // steps_per_decade:
        best = _best(scores)
        visit(best - step)
        visit(best + step)
        step //= 2
    best = _best(scores)
    tried = {_strength(place): scores[place] for place in sorted(scores)}
    return SearchResult(_strength(best), probes[best], tried)


def stratified_split(label: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows for training and for validation: `share` of each class, at least one of each that has two or more.

    Args:
        label: int64 (N,).
        share: in (0, 1).
        seed: of the choice.

    Raises:
        InputError: a share out of range.
    """
    if not 0 < share < 1:
        raise InputError(f"validation_share {share} must be in (0, 1)")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(label), generator=generator)
    held = torch.zeros(len(label), dtype=torch.bool)
    for value in torch.unique(label):
        rows = order[label[order] == value]
        if len(rows) > 1:
            held[rows[: max(1, round(share * len(rows)))]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _best(scores: dict[int, float]) -> int:
    return max(scores, key=lambda place: (scores[place], place))


def _strength(place: int) -> float:
    return float(10.0 ** (-6 + place / _STEPS_PER_DECADE))
