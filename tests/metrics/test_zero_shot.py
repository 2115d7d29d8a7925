"""ZeroShotAccuracy against plain loops, scikit-learn, permutations and real ranks."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from distributed.ranks import run_ranks
from hypothesis import given, settings
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.metrics import ZeroShotAccuracy


def batch(size: int, classes: int, seed: int = 0, levels: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and labels; with `levels`, scores are few whole numbers, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, generator=generator)
    if levels:
        logits = torch.randint(levels, (size, classes), generator=generator).float()
    return logits, torch.randint(classes, (size,), generator=generator)


def measured(logits: Tensor, label: Tensor, parts: int = 1) -> dict[str, Tensor]:
    metric = ZeroShotAccuracy(logits.shape[1])
    for scores, truth in zip(logits.tensor_split(parts), label.tensor_split(parts), strict=True):
        metric.update(scores, truth)
    return metric.compute()


def loops(logits: Tensor, label: Tensor) -> dict[str, Any]:
    """Classes by falling score, of equal ones the lower number first; then count."""
    count, classes = logits.shape
    confusion = np.zeros((classes, classes), dtype=np.int64)
    within = {1: 0, 5: 0}
    for scores, truth in zip(logits.tolist(), label.tolist(), strict=True):
        order = sorted(range(classes), key=lambda c: (-scores[c], c))
        confusion[truth, order[0]] += 1
        for k in within:
            within[k] += truth in order[:k]
    present = [c for c in range(classes) if confusion[c].sum()]
    per_class = [confusion[c, c] / confusion[c].sum() for c in present]
    return {
        "top1": within[1] / count,
        "top5": within[5] / count,
        "mean_per_class": sum(per_class) / len(per_class),
        "confusion": confusion,
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Any]) -> None:
    assert set(found) == {"top1", "top5", "mean_per_class", "confusion"}
    assert found["confusion"].tolist() == expected["confusion"].tolist()
    for key in ("top1", "top5", "mean_per_class"):
        assert found[key].item() == pytest.approx(float(expected[key]), abs=1e-6), key


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(2, 9), st.integers(0, 4), st.integers(0, 1000), st.integers(1, 3))
def test_equals_loops_with_and_without_ties(size: int, classes: int, levels: int, seed: int, parts: int) -> None:
    logits, label = batch(size, classes, seed, levels)
    assert_same(measured(logits, label, min(parts, size)), loops(logits, label))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("classes", [3, 8, 50])
def test_equals_scikit_learn(classes: int) -> None:
    logits, label = batch(200, classes)
    found, scores, truth = measured(logits, label), logits.numpy(), label.numpy()
    names = np.arange(classes)
    assert found["top1"].item() == pytest.approx((scores.argmax(1) == truth).mean())
    if classes > 5:
        assert found["top5"].item() == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=names))
    assert found["mean_per_class"].item() == pytest.approx(balanced_accuracy_score(truth, scores.argmax(1)))
    assert np.array_equal(found["confusion"].numpy(), confusion_matrix(truth, scores.argmax(1), labels=names))


def test_classes_that_are_only_predicted_do_not_count() -> None:
    found = measured(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), torch.tensor([0, 1]))
    assert found["mean_per_class"].item() == 0.5  # torchmetrics' own "macro" says 1/3


def test_top5_of_few_classes_is_one() -> None:
    assert measured(*batch(20, 4))["top5"].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equal_scores_are_worth_chance(dtype: torch.dtype) -> None:
    found = measured(torch.zeros(1000, 100, dtype=dtype), torch.arange(1000) % 100)
    assert found["top1"].item() == pytest.approx(0.01)
    assert found["top5"].item() == pytest.approx(0.05)
    assert found["confusion"][:, 0].tolist() == [10] * 100


def test_order_of_images_and_names_of_classes_change_nothing() -> None:
    logits, label = batch(60, 7)
    found = measured(logits, label)
    images, classes = torch.randperm(60), torch.randperm(7)
    assert_same(measured(logits[images], label[images]), found)
    renamed = measured(logits[:, classes], classes.argsort()[label])
    assert torch.equal(renamed.pop("confusion"), found["confusion"][classes][:, classes])
    for key, value in renamed.items():
        torch.testing.assert_close(value, found[key])


def test_scale_of_the_scores_changes_nothing() -> None:
    logits, label = batch(60, 7)
    assert_same(measured(100 * logits - 3, label), measured(logits, label))


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    logits, label = batch(30, 6, levels=3)
    metric = ZeroShotAccuracy(6)
    assert_same(metric(logits[:10], label[:10]), loops(logits[:10], label[:10]))
    metric(logits[10:], label[10:])
    assert_same(metric.compute(), loops(logits, label))
    with pytest.raises(InputError, match="is outside"):
        metric(logits, label + 6)
    with pytest.raises(InputError, match="the batch holds no image"):
        metric(logits[:0], label[:0])


def test_empty_batches_and_reset() -> None:
    logits, label = batch(10, 6)
    metric = ZeroShotAccuracy(6)
    metric.update(logits, label.flip(0))
    metric.reset()
    metric.update(logits[:0], label[:0])
    metric.update(logits, label.int())
    assert_same(metric.compute(), loops(logits, label))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a rank without images
@pytest.mark.parametrize("sizes", [(5, 12), (17, 0)], ids=str)
def test_uneven_ranks_equal_one_process(sizes: tuple[int, int]) -> None:
    logits, label = batch(sum(sizes), 9)

    def share(rank: int, world_size: int) -> dict[str, Tensor]:
        metric = ZeroShotAccuracy(9)
        part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        if sizes[rank]:
            metric.update(logits[part], label[part])
        return metric.compute()

    for found in run_ranks(share, 2):
        assert_same(found, loops(logits, label))


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), "logits (2, 4) and label (2,) must be (B, 3)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), "logits (3,) and label (3,) must be (B, 3)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), "logits (2, 3) and label (3,) must be (B, 3)"),
        (torch.tensor([[0.0, float("nan"), 0.0]]), torch.tensor([0]), "logits hold NaN or infinite values"),
        (torch.full((1, 3), -torch.inf), torch.tensor([0]), "logits hold NaN or infinite values"),
        (torch.tensor([[0.0, float("inf"), 0.0]]), torch.tensor([0]), "logits hold NaN or infinite values"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "label 3 is outside [0, 3)"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "label -1 is outside [0, 3)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "label of torch.float32 must hold class numbers"),
    ],
)
def test_refuses(logits: Tensor, label: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        ZeroShotAccuracy(3).update(logits, label)


def test_refuses_one_class() -> None:
    with pytest.raises(InputError, match="num_classes 1 is too few"):
        ZeroShotAccuracy(1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_refuses_to_compute_on_nothing() -> None:
    with pytest.raises(InputError, match="no images were evaluated"):
        ZeroShotAccuracy(3).compute()
