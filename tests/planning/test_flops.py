"""Counting: closed forms, the library's own counter, work done twice, and what the library counts wrong."""

from __future__ import annotations

import pytest
import torch
from counting import library_counter
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from lightning_clip import SigmoidContrastiveLoss, SoftmaxContrastiveLoss
from lightning_clip.planning import FlopCounter, Flops
from lightning_clip.planning.loss import loss_flops


def count(forward: object) -> Flops:
    with FlopCounter() as counter:
        loss = forward()  # type: ignore[operator]
        counter.backward()
        loss.sum().backward()
    return counter.flops


def test_linear_layer_closed_form() -> None:
    m, k, n = 7, 11, 13
    layer, inputs = nn.Linear(k, n, bias=False), torch.randn(m, k, requires_grad=True)
    assert count(lambda: layer(inputs)) == Flops(forward=2 * m * n * k, backward=4 * m * n * k)
    inputs.requires_grad_(False)
    assert count(lambda: layer(inputs)) == Flops(forward=2 * m * n * k, backward=2 * m * n * k)


@pytest.mark.parametrize("reentrant", [False, True])
def test_work_done_twice_has_its_own_account(reentrant: bool) -> None:
    block = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.GELU())
    inputs = torch.randn(4, 8, requires_grad=True)
    plain = count(lambda: block(inputs))
    again = count(lambda: checkpoint(block, inputs, use_reentrant=reentrant))
    assert plain == Flops(forward=2048, backward=4096)
    assert again == Flops(forward=2048, backward=4096, recomputed=2048)


def test_attention_and_convolution_agree_with_the_library() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.attention = nn.Conv2d(3, 8, 3, stride=2), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = self.convolution(image).flatten(2).mT
            out: torch.Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return out

    model, image = Model(), torch.randn(2, 3, 16, 16, requires_grad=True)
    with library_counter() as library:
        model(image).sum().backward()
    assert count(lambda: model(image)).useful == library.get_total_flops()


def test_depthwise_convolution_closed_form() -> None:
    """The library counts the gradient of its weights as if it had no groups: 6 times too many here."""
    batch, channels, size, kernel = 2, 6, 9, 3
    layer = nn.Conv2d(channels, channels, kernel, padding=1, groups=channels)
    image = torch.randn(batch, channels, size, size, requires_grad=True)
    product = 2 * batch * channels * size**2 * kernel**2
    assert count(lambda: layer(image)) == Flops(forward=product, backward=2 * product)


@pytest.mark.parametrize("loss", [SoftmaxContrastiveLoss(), SigmoidContrastiveLoss()], ids=["softmax", "sigmoid"])
def test_losses_closed_form(loss: nn.Module) -> None:
    images, texts = (normalize(torch.randn(24, 16), dim=1).requires_grad_() for _ in range(2))
    counted = count(lambda: loss(images, texts, torch.tensor([10.0], requires_grad=True)))
    assert counted.useful == loss_flops(24, 1, 16).useful * 24


def test_sums() -> None:
    flops = Flops(1, 2, 3)
    assert flops.useful == 3 and flops + flops == flops * 2 == Flops(2, 4, 6)
