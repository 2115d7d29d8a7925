"""Losses of boxes against loops in float64 that try every matching."""

from __future__ import annotations

import pytest
import torch
from reference.boxes import cost_of, focal, giou, set_loss
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from lightning_clip.losses.boxes import BoxWeights, box_losses, focal_loss, matched_places, matching_cost, set_losses

WEIGHTS = BoxWeights(1.5, 4.0, 3.0, 0.3, 1.5)
COUNTS = (3, 0, 2)  # objects of each picture


def made(seed: int = 0, places: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, boxes, labels and objects of three pictures, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    centres, sizes = 0.2 + 0.6 * drawn(3, places, 2), 0.05 + 0.3 * drawn(3, places, 2)
    low = 0.6 * drawn(3, 3, 2)
    objects = torch.cat([low, low + 0.05 + 0.35 * drawn(3, 3, 2)], dim=-1)
    labels = torch.randint(0, classes, (3, 3), generator=generator)
    for row, count in enumerate(COUNTS):
        labels[row, count:], objects[row, count:] = -1, 0
    return 4 * drawn(3, places, classes) - 2, torch.cat([centres, sizes], dim=-1), labels, objects


@pytest.mark.parametrize("seed", range(5))
def test_losses_are_those_of_the_best_of_all_matchings(seed: int) -> None:
    logits, boxes, labels, objects = made(seed)
    found = set_losses(logits, boxes, labels, objects, torch.ones(3, 4, dtype=torch.bool), WEIGHTS)
    for row, count in enumerate(COUNTS):
        given = (logits[row].tolist(), boxes[row].tolist(), labels[row, :count].tolist(), objects[row, :count].tolist())
        for name, expected in zip(("classes", "corners", "overlap"), set_loss(*given, WEIGHTS), strict=True):
            assert float(found[name][row]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_single_precision_is_within_a_millionth() -> None:
    logits, boxes, labels, objects = made(7)
    counted = torch.ones(3, 4, dtype=torch.bool)
    whole = set_losses(logits, boxes, labels, objects, counted, WEIGHTS)
    single = set_losses(logits.float(), boxes.float(), labels, objects.float(), counted, WEIGHTS)
    for name, value in whole.items():
        torch.testing.assert_close(single[name].double(), value, rtol=1e-6, atol=1e-6)


def test_costs_and_parts_equal_loops_and_torchvision() -> None:
    logits, boxes, labels, objects = made(3)
    cost = matching_cost(logits, boxes, labels.clamp(min=0), objects, WEIGHTS)
    for place in range(5):
        for which in range(COUNTS[0]):
            expected = cost_of(
                logits[0, place], boxes[0, place].tolist(), int(labels[0, which]), objects[0, which].tolist(), WEIGHTS
            )
            assert float(cost[0, place, which]) == pytest.approx(expected, rel=1e-9)
    targets = (logits > 1).double()
    expected_focal = sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5)
    torch.testing.assert_close(focal_loss(logits, targets, 0.3, 1.5), expected_focal, rtol=1e-9, atol=1e-12)
    assert float(focal_loss(logits[0, 0, :1], torch.ones(1).double(), 0.3, 1.5)) == pytest.approx(
        focal(float(logits[0, 0, 0]), True, 0.3, 1.5), rel=1e-9
    )
    apart = torch.tensor([[0.1, 0.1, 0.2, 0.2]]).double(), torch.tensor([[0.6, 0.7, 0.9, 0.8]]).double()
    assert float(box_losses(*apart)[1]) == pytest.approx(1 - giou([0.0, 0.0, 0.2, 0.2], [0.6, 0.7, 0.9, 0.8]))


def test_classes_that_are_not_counted_lose_nothing() -> None:
    logits, boxes, labels, objects = made(1)
    counted = torch.tensor([True, True, True, False]).expand(3, -1)
    labels = labels.clamp(max=2)
    less = set_losses(logits, boxes, labels, objects, counted, WEIGHTS)["classes"]
    cut = set_losses(logits[..., :3], boxes, labels, objects, counted[:, :3], WEIGHTS)["classes"]
    torch.testing.assert_close(less, cut)


def test_more_objects_than_places_and_broken_numbers() -> None:
    """Some objects get no place; a place whose numbers are not finite is matched where nothing else is left."""
    logits, boxes, labels, objects = made(2, places=2)
    assert matched_places(logits, boxes, labels, objects, WEIGHTS)[:, 0].tolist() == [0, 0, 2, 2]
    logits, boxes, labels, objects = made(2)
    boxes[0, 1] = torch.nan
    assert 1 not in matched_places(logits, boxes, labels, objects, WEIGHTS)[:3, 1].tolist()


def test_gradients() -> None:
    logits, boxes, labels, objects = made(4)
    given = (logits.requires_grad_(), boxes.requires_grad_())

    def total(logits: Tensor, boxes: Tensor) -> Tensor:
        found = set_losses(logits, boxes, labels, objects, torch.ones(3, 4, dtype=torch.bool), WEIGHTS)
        return torch.stack(list(found.values())).sum()

    assert torch.autograd.gradcheck(total, given)
