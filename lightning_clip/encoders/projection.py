"""Heads into the shared space: (B, output_dim) arrives, (B, embed_dim) leaves, not yet of unit length."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_clip.errors import InputError
from lightning_clip.registry import Registry

__all__ = ["IdentityProjection", "LinearProjection", "MlpProjection", "projections"]

projections: Registry[nn.Module] = Registry("projection")


@projections.register("linear")
class LinearProjection(nn.Linear):
    """CLIP's head: one matrix, no bias, drawn with standard deviation input_dim^-0.5."""

    def __init__(self, input_dim: int, embed_dim: int) -> None:
        super().__init__(input_dim, embed_dim, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)


@projections.register("mlp")
class MlpProjection(nn.Sequential):
    """ConVIRT's head (Zhang et al. 2020, section 2.2): linear, ReLU, linear.

    Args:
        input_dim: width of the tower.
        embed_dim: width of the shared space.
        hidden_dim: width in between; None takes `embed_dim`.
    """

    def __init__(self, input_dim: int, embed_dim: int, hidden_dim: int | None = None) -> None:
        hidden_dim = hidden_dim or embed_dim
        super().__init__(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, embed_dim))


@projections.register("none")
class IdentityProjection(nn.Module):
    """No head: the tower's width is the shared width."""

    def __init__(self, input_dim: int, embed_dim: int) -> None:
        super().__init__()
        if input_dim != embed_dim:
            raise InputError(
                f"embed_dim {embed_dim} does not match the encoder's output_dim {input_dim}, and projection 'none' cannot "
                f"bridge them: use projection 'linear' or 'mlp', or embed_dim={input_dim}"
            )

    def forward(self, features: Tensor) -> Tensor:
        return features
