"""Run by test_cuda.py under TRITON_INTERPRET=1: the kernels' losses on the CPU against float64, alone and over ranks.

The interpreter multiplies no bfloat16, so that float16 stands for it.
"""

from __future__ import annotations

import torch
from distributed.ranks import run_ranks
from reference import dense
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.losses import cuda_choice, cuda_gradients, cuda_ring, cuda_sigmoid, cuda_softmax, losses
from lightning_clip.losses.cuda_factors import Tile
from lightning_clip.losses.exchange import Alone, Exchange, Gather, Ring
from lightning_clip.losses.sigmoid import sigmoid_contrastive_loss
from lightning_clip.losses.softmax import softmax_contrastive_loss

HALF, EXACT = (torch.float16, 1), (torch.float16, 3)
NAMES = ("softmax", "sigmoid")
SIZES = [9, 5, 7]


def features(count: int, dtype: torch.dtype, likeness: float = 0.0) -> tuple[Tensor, Tensor]:
    """Unit features (B, 12), whose width is no multiple of 8; with a high likeness all pairs are found."""
    generator = torch.Generator().manual_seed(count)
    images, texts = (normalize(torch.randn(count, 12, generator=generator), dim=-1) for _ in "it")
    return images.to(dtype), normalize(texts + likeness * images, dim=-1).to(dtype)


def kernels(name: str, inputs: list[Tensor], exchange: Exchange, multiplied: tuple[torch.dtype, int]) -> Tensor:
    ring = isinstance(exchange, Ring)
    if name == "softmax":
        function = cuda_ring.RingSoftmax if ring else cuda_softmax.CudaSoftmax
        return function.apply(*inputs[:3], exchange, 0.5, *multiplied)
    function = cuda_ring.RingSigmoid if ring else cuda_sigmoid.CudaSigmoid
    return function.apply(*inputs, exchange, *multiplied)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def check(
    name: str, images: Tensor, texts: Tensor, scale: float, bias: float, kind: tuple[torch.dtype, int], limit: float
) -> None:
    inputs = [images, texts, torch.tensor([scale]), torch.tensor([bias])]
    inputs = [value.clone().requires_grad_() for value in inputs]
    loss = kernels(name, inputs, Alone(len(images)), kind)
    (3 * loss).backward()
    rounded = [value.to(kind[0]) if kind[1] == 1 else value for value in (images, texts)]
    expected, references = dense.gradients(name, *rounded, scale, bias)
    errors = [relative(loss.detach(), expected)]
    assert errors[0] <= 1e-6, errors
    for value, reference in zip(inputs, references, strict=True):
        if reference is not None:
            assert value.grad is not None and value.grad.dtype == value.dtype
            errors.append(relative(value.grad, 3 * reference))
    assert max(errors) <= limit, f"{name} {kind} scale {scale}: {errors}"


def alone() -> None:
    for name in NAMES:
        check(name, *features(75, torch.float32), 30.0, -8.0, EXACT, 2e-6)
        check(name, *features(75, torch.float16), 30.0, -8.0, HALF, 1e-3)
        check(name, *features(64, torch.float32), 30.0, -8.0, HALF, 1e-3)  # tiles without a rest
        check(name, *features(150, torch.float16), 30.0, -8.0, HALF, 1e-3)  # two chunks of rows
        check(name, *features(40, torch.float32, likeness=3.0), 20.0, -10.0, EXACT, 1e-5)  # hardly a loss left
        check(name, *features(40, torch.float32), 1000.0, -300.0, EXACT, 2e-5)  # logits far apart
        check(name, *features(40, torch.float32), -20.0, 3.0, EXACT, 2e-6)
        check(name, *features(2, torch.float32), 10.0, -1.0, EXACT, 2e-6)
    images, texts = (value.requires_grad_() for value in features(1, torch.float32))
    loss = kernels("softmax", [images, texts, torch.tensor([10.0])], Alone(1), EXACT)
    loss.backward()
    assert loss == 0 and not images.grad.any() and not texts.grad.any()


def only_what_is_asked_for() -> None:
    for name in NAMES:
        images, texts = features(20, torch.float32)
        loss = kernels(name, [images, texts.requires_grad_(), torch.tensor([9.0]), torch.tensor([-2.0])], Alone(20), EXACT)
        loss.backward()
        found, texts.grad = texts.grad, None
        assert relative(found, dense.gradients(name, images, texts.detach(), 9.0, -2.0)[1][1]) <= 2e-6
        loss = kernels(name, [images, texts.detach(), torch.tensor([9.0]), torch.tensor([-2.0])], Alone(20), EXACT)
        assert not loss.requires_grad


def _one_rank(
    rank: int, world_size: int, name: str, kind: type[Gather | Ring], weights: list[float], plain: bool
) -> list[Tensor]:
    part = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    images, texts = features(sum(SIZES), torch.float32)
    inputs = [images[part], texts[part], torch.tensor([9.0]), torch.tensor([-2.0])]
    inputs = [value.clone().requires_grad_() for value in inputs]
    exchange = kind(SIZES, rank)
    if plain and name == "softmax":
        loss = softmax_contrastive_loss(*inputs[:3], exchange=exchange)
    elif plain:
        loss = sigmoid_contrastive_loss(*inputs, exchange=exchange)
    else:
        loss = kernels(name, inputs, exchange, EXACT)
    for _ in range(2):  # what is kept for it serves a second time
        for value in inputs:
            value.grad = None
        (weights[rank] * loss).backward(retain_graph=True)
    return [loss.detach(), *(value.grad for value in inputs if value.grad is not None)]


def over_ranks() -> None:
    """Uneven ranks whose losses weigh differently, against autograd through the plain tiles."""
    for kind in (Gather, Ring):
        for name in NAMES:
            _same_as_plain(name, kind, [0.5, 4.0, 1.0])
    _same_as_plain("sigmoid", Ring, [2.0, 2.0, 2.0])  # texts go round once


def _same_as_plain(name: str, kind: type[Gather | Ring], weights: list[float]) -> None:
    ranks = len(SIZES)
    plain = run_ranks(_one_rank, ranks, name, Gather, weights, True)
    for found, expected in zip(run_ranks(_one_rank, ranks, name, kind, weights, False), plain, strict=True):
        assert len(found) == len(expected)
        for value, reference in zip(found, expected, strict=True):
            assert relative(value, reference.double()) <= 5e-6, (name, kind)


def a_ring_of_one() -> None:
    for name in NAMES:
        images, texts = features(75, torch.float32)
        values = [images, texts, torch.tensor([30.0]), torch.tensor([-8.0])]
        values = [value.clone().requires_grad_() for value in values]
        kernels(name, values, Ring([75], 0), EXACT).backward()
        _, references = dense.gradients(name, images, texts, 30.0, -8.0)
        assert max(relative(value.grad, reference) for value, reference in zip(values[:2], references, strict=False)) <= 2e-6


def through_the_module() -> None:
    """The losses that users build take the kernels where features are multiplied on CUDA, for which the CPU stands."""
    cuda_choice.multiplied_as = lambda features, precision: cuda_choice.Multiplied(*EXACT)
    for name in NAMES:
        inputs = [*features(20, torch.float32), torch.tensor([9.0]), torch.tensor([-2.0])]
        inputs = [value.requires_grad_() for value in inputs]
        loss = losses.build(name)(*inputs)
        assert loss.grad_fn.name() == f"Cuda{name.title()}Backward"
        assert relative(loss.detach(), dense.gradients(name, *inputs[:2], 9.0, -2.0)[0]) <= 1e-6
        function = softmax_contrastive_loss if name == "softmax" else sigmoid_contrastive_loss
        ring = function(*inputs[: 3 if name == "softmax" else 4], exchange=Ring([20], 0))
        assert ring.grad_fn.name() == f"Ring{name.title()}Backward"
        assert relative(ring.detach(), loss.detach().double()) <= 1e-6
        tiled = losses.build({"name": name, "tile_size": 8})(*inputs)
        assert tiled.grad_fn.name() == f"{name.title()}TilesBackward"


def main() -> None:
    torch.set_num_threads(1)
    cuda_softmax.SUMS = cuda_softmax.TILE = cuda_sigmoid.TILE = Tile(32, 64, 16, 1, 1)  # several programs on few features
    cuda_gradients.ROWS = 128
    for work in (alone, only_what_is_asked_for, over_ranks, a_ring_of_one, through_the_module):
        work()
        print(work.__name__)
    for name in NAMES:
        assert cuda_choice._runs(name, torch.device("cpu"), cuda_choice.Multiplied(*HALF))


if __name__ == "__main__":
    main()
