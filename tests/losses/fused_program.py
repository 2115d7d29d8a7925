"""Run by test_fused.py under TRITON_INTERPRET=1: both losses with the kernels against the same losses without them."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from lightning_clip.losses import fused, losses, sigmoid_tiles, softmax_tiles


def measured(name: str, dtype: torch.dtype, wins: bool) -> list[torch.Tensor]:
    softmax_tiles.fused_wins = sigmoid_tiles.fused_wins = lambda features: wins
    generator = torch.Generator().manual_seed(0)
    features = [normalize(torch.randn(75, 40, generator=generator), dim=-1).to(dtype) for _ in "it"]
    inputs = [value.requires_grad_() for value in (*features, torch.tensor([70.0]), torch.tensor([-8.0]))]
    loss = losses.build({"name": name, "tile_size": 50})(*inputs)
    loss.backward()
    return [loss.detach(), *(value.grad for value in inputs if value.grad is not None)]


def main() -> None:
    torch.set_num_threads(1)
    fused._ROWS, fused._COLUMNS, fused._DEPTH = 32, 32, 16  # several programs on small features
    for name in ("softmax", "sigmoid"):
        for dtype, limit in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
            for found, expected in zip(measured(name, dtype, True), measured(name, dtype, False), strict=True):
                error = float((found.double() - expected.double()).norm() / expected.double().norm())
                assert error <= limit, f"{name} {dtype}: {error:.2e} in {tuple(found.shape)}"
        print(name)


if __name__ == "__main__":
    main()
