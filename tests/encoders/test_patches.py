"""Patches as a product: the convolution's values and gradients, its names, and where it stays a convolution."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from lightning_clip.encoders.patches import PatchProduct, use_products
from lightning_clip.encoders.timm_image import TimmImageEncoder


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(32, 32), (16, 48)])
def test_is_the_convolution(bias: bool, shape: tuple[int, int]) -> None:
    layer = PatchProduct(3, 24, kernel_size=(8, 16), stride=(8, 16), bias=bias).double()
    plain = nn.Conv2d(3, 24, kernel_size=(8, 16), stride=(8, 16), bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    images = [torch.randn(5, 3, *shape, dtype=torch.float64).requires_grad_() for _ in range(1)] * 2
    found, expected = layer.product(images[0]), plain(images[1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(found)
    for own, other in zip(
        torch.autograd.grad(found, [images[0], *layer.parameters()], upstream),
        torch.autograd.grad(expected, [images[1], *plain.parameters()], upstream),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-11)


def test_towers_have_it_under_the_old_names() -> None:
    options: dict[str, Any] = {"patch_size": 8, "depth": 1, "img_size": 32}
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    tower = TimmImageEncoder("vit_tiny_patch16_224", image_size=32, patch_size=8, depth=1)
    assert isinstance(tower.model.patch_embed.proj, PatchProduct)
    assert tower.model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_relpos_small_patch16_224"])
def test_other_families_keep_working(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = model(image)
        use_products(model)
        torch.testing.assert_close(model(image), before)


def test_what_overlaps_stays() -> None:
    model = nn.Module()
    model.patch_embed = nn.Module()
    model.patch_embed.proj = nn.Conv2d(3, 8, kernel_size=7, stride=4)
    use_products(model)
    assert type(model.patch_embed.proj) is nn.Conv2d


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    layer = PatchProduct(3, 64, kernel_size=16, stride=16).cuda()
    image = torch.randn(4, 3, 64, 64, device="cuda")
    torch.testing.assert_close(layer(image), nn.Conv2d.forward(layer, image), rtol=1e-4, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(image).dtype == torch.bfloat16
    assert layer(image[..., :40]).shape == (4, 64, 4, 2)  # not of whole patches: the convolution omits the rest
