"""Patch embedding as one product: on GPUs a convolution of patches side by side runs far below the speed of a product."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["PatchProduct", "use_products"]


class PatchProduct(nn.Conv2d):
    """A convolution whose windows lie side by side: with the weights, and the result, of the one that it replaces.

    On GPUs, where a convolution of such windows is far slower than the product. On CPUs it is not, and stays.

    Examples:
        >>> layer = PatchProduct(3, 8, kernel_size=4, stride=4)
        >>> image = torch.randn(2, 3, 8, 8)
        >>> torch.testing.assert_close(layer.product(image), layer(image))
    """

    def forward(self, image: Tensor) -> Tensor:
        """Pixels (B, C, H, W) -> (B, D, H / P, W / P)."""
        return self.product(image) if image.is_cuda and self.divides(image) else super().forward(image)

    def _get_name(self) -> str:
        """A model that is printed shows what it is made of, not how it is computed: printed models are compared."""
        return nn.Conv2d.__name__

    def divides(self, image: Tensor) -> bool:
        """Whether the image consists of whole patches."""
        return image.shape[-2] % self.kernel_size[0] == 0 and image.shape[-1] % self.kernel_size[1] == 0

    def product(self, image: Tensor) -> Tensor:
        """As `forward`, of an image of whole patches."""
        if torch.is_autocast_enabled(image.device.type):  # before it is laid out anew, which then is half as much
            image = image.to(torch.get_autocast_dtype(image.device.type))
        high, wide = self.kernel_size
        batch, channels, rows, columns = image.shape[0], image.shape[1], image.shape[2] // high, image.shape[3] // wide
        # (B, C, H, W) -> (B, rows, columns, C, P, P) -> (B, rows, columns, C P P)
        patches = image.reshape(batch, channels, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)  # -> (B, D, rows, columns)


def use_products(model: nn.Module) -> None:
    """Replaces the convolution of a model's `patch_embed`, if its windows lie side by side; names of weights stay.

    Args:
        model: of timm.
    """
    embed = getattr(model, "patch_embed", None)
    layer = getattr(embed, "proj", None)
    if type(layer) is not nn.Conv2d or embed is None:
        return
    side_by_side = layer.stride == layer.kernel_size and layer.dilation == (1, 1) and layer.padding in ((0, 0), "valid")
    if side_by_side and layer.groups == 1:
        high, wide = layer.kernel_size
        found = PatchProduct(layer.in_channels, layer.out_channels, (high, wide), (high, wide), bias=layer.bias is not None)
        found.weight, found.bias = layer.weight, layer.bias
        embed.proj = found
