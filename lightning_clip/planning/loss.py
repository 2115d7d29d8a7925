"""Bytes and FLOPs of the loss on a device."""

from __future__ import annotations

from lightning_clip.losses.tiling import ACCELERATOR_TILE_SIZE, DENSE_BYTES
from lightning_clip.planning.flops import Flops

__all__ = ["loss_bytes", "loss_flops"]


def loss_bytes(local: int, world_size: int, embed_dim: int, texts: int = 1) -> tuple[int, int]:
    """Bytes of the loss on one device.

    Args:
        local: pairs on the device.
        world_size: number of devices.
        embed_dim: width D of the features.
        texts: of each pair.

    Returns:
        Bytes of its own features, their gradients and the similarities, B x B or a tile of it; and bytes of the texts'
        features gathered from all devices, with their gradients. All float32.
    """
    features_and_gradients = 2 * 4 * (1 + texts) * local * embed_dim
    whole = 4 * local * local * world_size * texts
    similarities = whole if whole <= DENSE_BYTES else 4 * ACCELERATOR_TILE_SIZE**2
    gathered = 2 * 4 * local * world_size * embed_dim * texts if world_size > 1 else 0
    return features_and_gradients + similarities, gathered


def loss_flops(local: int, world_size: int, embed_dim: int, *, texts: int = 1, twice: bool = True) -> Flops:
    """FLOPs of the loss per sample: the product of its row with all columns, and two more in the backward pass.

    Args:
        local: pairs on a device.
        world_size: number of devices.
        embed_dim: width of the features.
        texts: of each pair.
        twice: whether tiles, where the similarities are too many to be kept, are computed again for the backward pass.
    """
    product = 2 * local * world_size * texts * embed_dim
    tiled = 4 * local * local * world_size * texts > DENSE_BYTES
    return Flops(product, 2 * product, product if twice and tiled else 0)
