"""Heads into the shared space: (B, output_dim) -> (B, embed_dim), not yet of unit length."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.registry import Registry

__all__ = ["IdentityProjection", "LinearProjection", "MlpProjection", "projections"]

projections: Registry[nn.Module] = Registry("projection")
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@projections.register("linear")
class LinearProjection(nn.Linear):
    """CLIP's head: one matrix, drawn with standard deviation input_dim^-0.5.

    Args:
        input_dim: width of the tower.
        embed_dim: width of the shared space.
        bias: CLIP's ResNets and some towers of others have one.
    """

    def __init__(self, input_dim: int, embed_dim: int, bias: bool = False) -> None:
        super().__init__(input_dim, embed_dim, bias=bias)

    def reset_parameters(self) -> None:
        """Draws the matrix with standard deviation input_dim^-0.5; the bias begins at zero."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@projections.register("mlp")
class MlpProjection(nn.Sequential):
    """ConVIRT's head (Zhang et al. 2020, section 2.2): linear, ReLU, linear; or open_clip's, with GELU and without biases.

    Args:
        input_dim: width of the tower.
        embed_dim: width of the shared space.
        hidden_dim: width in between; None takes `embed_dim`.
        activation: "relu" or "gelu".
        bias: of both layers.

    Raises:
        InputError: unknown activation.
    """

    def __init__(
        self, input_dim: int, embed_dim: int, hidden_dim: int | None = None, activation: str = "relu", bias: bool = True
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise InputError(f"unknown activation {activation!r}: {nearest(activation, _ACTIVATIONS)}")
        hidden_dim = hidden_dim or embed_dim
        layers = nn.Linear(input_dim, hidden_dim, bias=bias), nn.Linear(hidden_dim, embed_dim, bias=bias)
        super().__init__(layers[0], _ACTIVATIONS[activation](), layers[1])


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
        """(B, input_dim) -> the same (B, embed_dim)."""
        return features
