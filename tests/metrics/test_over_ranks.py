"""Retrieval of features spread over processes: the ranks of one process, in the memory of a block."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from distributed.ranks import run_ranks
from metrics.test_retrieval import metric_loops, pairs, rank_loops
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_clip.core.errors import InputError
from lightning_clip.metrics import checks
from lightning_clip.metrics.over_ranks import ranks_over_processes, retrieval_over_processes, rows_of_all
from lightning_clip.metrics.scores import retrieval_scores

NUMBERS = torch.arange(11) * 10**12 - 5


def share(sizes: tuple[int, ...], rank: int) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def of_rank(images: tuple[int, ...], texts: tuple[int, ...], rank: int, levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and captions of a rank; captions stand anywhere, not where their images do."""
    image, text, belongs = pairs(11, 30, levels=levels)
    rows, columns = share(images, rank), share(texts, rank)
    return image[rows], text[columns], NUMBERS[rows], NUMBERS[belongs[columns]]


SIZES = [((3, 8), (17, 13)), ((11, 0), (10, 20)), ((0, 11), (30, 0)), ((2, 4, 5), (1, 29, 0)), ((11,), (30,))]


@pytest.mark.parametrize("levels", [0, 2], ids=["few ties", "many ties"])
@pytest.mark.parametrize(("images", "texts"), SIZES, ids=str)
@pytest.mark.parametrize("block", [4, 100])
def test_ranks_are_those_of_loops(images: tuple[int, ...], texts: tuple[int, ...], levels: int, block: int) -> None:
    def one(rank: int, world_size: int) -> tuple[Tensor, ...]:
        return tuple(ranks_over_processes(*of_rank(images, texts, rank, levels), block=block))

    found = run_ranks(one, len(images))
    image, text, belongs = pairs(11, 30, levels=levels)
    index = torch.arange(11)
    assert torch.cat([part[0] for part in found]).tolist() == rank_loops(text, image, belongs, index)
    assert torch.cat([part[1] for part in found]).tolist() == rank_loops(image, text, index, belongs)
    expected, _ = retrieval_scores(image, text, belongs)
    precision = float(sum(part[2] for part in found)) / 11
    assert precision == pytest.approx(float(expected["image_to_text/mean_average_precision"]), abs=1e-7)


def test_metrics_are_the_same_on_every_rank() -> None:
    def one(rank: int, world_size: int) -> dict[str, float]:
        found = retrieval_over_processes(*of_rank((2, 4, 5), (1, 29, 0), rank, 0), with_precision=True)
        return {key: float(value) for key, value in found.items()}

    image, text, belongs = pairs(11, 30)
    expected, _ = retrieval_scores(image, text, belongs)
    for found in run_ranks(one, 3):
        assert found == {key: float(value) for key, value in expected.items()}
        assert {key: found[key] for key in metric_loops(image, text, belongs)} == pytest.approx(
            metric_loops(image, text, belongs), abs=1e-6
        )


def test_half_precision_beside_float64() -> None:
    """Scores are compared in the widest precision that any rank brings."""
    image, text, belongs = pairs(11, 30)
    image, text = image.to(torch.bfloat16), text.double()

    def one(rank: int, world_size: int) -> tuple[Tensor, ...]:
        rows, columns = share((4, 7), rank), share((20, 10), rank)
        texts = text[columns] if rank else text[columns].to(torch.bfloat16)
        return tuple(ranks_over_processes(image[rows], texts, NUMBERS[rows], NUMBERS[belongs[columns]]))

    rounded = torch.cat([text[:20].to(torch.bfloat16).double(), text[20:]])
    found = torch.cat([part[0] for part in run_ranks(one, 2)])
    assert found.tolist() == rank_loops(rounded, image.double(), belongs, torch.arange(11))


def test_only_a_block_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its own features a rank makes nothing larger than a block of texts."""
    monkeypatch.setattr(checks, "_CHECKED", 10)
    width, texts, block = 64, 60, 10

    def one(rank: int, world_size: int) -> int:
        generator = torch.Generator().manual_seed(rank)
        image, text = torch.randn(5, width, generator=generator), torch.randn(texts, width, generator=generator)
        largest = [0]

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                made = isinstance(result, Tensor) and result.ndim == 2 and result.shape[1] == width
                if made and not result._is_view():
                    largest[0] = max(largest[0], len(result))
                return result

        numbers = torch.arange(5) + 5 * rank
        with Watch():  # type: ignore[no-untyped-call]
            ranks_over_processes(image, text, numbers, numbers[torch.arange(texts) % 5], block=block)
        return largest[0]

    assert max(run_ranks(one, 2)) <= block


def test_rows_of_all() -> None:
    def one(rank: int, world_size: int) -> list[int]:
        return rows_of_all(torch.arange(3 * rank)).tolist()

    assert run_ranks(one, 3) == [[0, 1, 2, 0, 1, 2, 3, 4, 5]] * 3


def _refused(rank: int, world_size: int, image: Tensor, text: Tensor, numbers: Tensor, owner: Tensor) -> str:
    with pytest.raises(InputError) as caught:
        ranks_over_processes(image[rank], text[rank], numbers[rank], owner[rank])
    return str(caught.value)


class TestRefused:
    def on_both(self, message: str, **changed: Any) -> None:
        given = {
            "image": torch.eye(4).view(2, 2, 4),
            "text": torch.eye(4).view(2, 2, 4),
            "numbers": torch.arange(4).view(2, 2),
            "owner": torch.arange(4).view(2, 2),
        }
        for found in run_ranks(_refused, 2, *{**given, **changed}.values()):
            assert message in found

    def test_an_image_on_two_ranks(self) -> None:
        self.on_both("image 1 was given 2 times", numbers=torch.tensor([[0, 1], [1, 3]]), owner=torch.tensor([[0, 1], [1, 3]]))

    def test_a_caption_without_image(self) -> None:
        self.on_both("image 3 has no caption", owner=torch.tensor([[0, 1], [2, 2]]))

    def test_what_is_not_finite_on_one_rank(self) -> None:
        text = torch.eye(4).view(2, 2, 4).clone()
        text[1, 0, 0] = math.nan
        self.on_both("rank 1: text features hold NaN or infinite values", text=text)

    def test_other_widths(self) -> None:
        self.on_both("features are 3, 4 wide: both sides must come from one shared space", text=torch.ones(2, 2, 3))

    def test_no_images(self) -> None:
        empty = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
        self.on_both("there are no image features to rank", image=empty[0], numbers=empty[1])

    def test_a_block_of_nothing(self) -> None:
        with pytest.raises(InputError, match="block 0 must be at least 1 caption at a time"):
            ranks_over_processes(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2), block=0)
