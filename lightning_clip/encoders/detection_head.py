"""`DetectionHead`: a box and an embedding for each place of a picture, as OWL-ViT has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.dense import square_grid

__all__ = ["DetectionHead", "TokenBoxes", "box_bias", "class_logits"]

_TINY = 1e-6  # beside the norms, as OWL-ViT has it
_EDGE = 1e-4  # beside the shares whose logits are taken


class TokenBoxes(NamedTuple):
    """What the head says of each of Q places of B pictures.

    Attributes:
        boxes: (B, Q, 4), centre x, centre y, width and height as shares of the picture, in [0, 1].
        embeddings: (B, Q, D), to be compared with those of texts.
        shift: (B, Q, 1), added to cosines.
        scale: (B, Q, 1), then times this, above 0.
    """

    boxes: Tensor
    embeddings: Tensor
    shift: Tensor
    scale: Tensor

    def logits(self, texts: Tensor) -> Tensor:
        """Of each place for each text: (B, Q, D) with unit texts (C, D) -> (B, Q, C)."""
        return class_logits(self.embeddings, self.shift, self.scale, texts)


def class_logits(embeddings: Tensor, shift: Tensor, scale: Tensor, texts: Tensor) -> Tensor:
    """(cosine + shift) * scale of each place with each text: (B, Q, D) and (C, D) -> (B, Q, C)."""
    own, others = (part / (part.norm(dim=-1, keepdim=True) + _TINY) for part in (embeddings, texts))
    logits: Tensor = (own @ others.to(own.dtype).T + shift) * scale
    return logits


class DetectionHead(nn.Module):
    """Boxes and embeddings of an image tower's tokens (Minderer et al. 2022, arXiv 2205.06230).

    Each token of a place is multiplied by the class token, where there is one, and normalised; an MLP makes of it a box around
    its place, a linear layer its embedding, and two more a shift and a scale of its logits.

    Args:
        width: W of the tokens.
        dim: D of the shared space.

    Examples:
        >>> head = DetectionHead(12, 8)
        >>> found = head(torch.randn(2, 17, 12))
        >>> found.boxes.shape, found.logits(torch.randn(3, 8)).shape
        (torch.Size([2, 16, 4]), torch.Size([2, 16, 3]))
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        hidden: list[nn.Module] = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.GELU())]
        self.box = nn.Sequential(*hidden, nn.Linear(width, 4))
        self.embedding = nn.Linear(width, dim)
        self.shift, self.scale = nn.Linear(width, 1), nn.Linear(width, 1)

    def start(self, projection: nn.Module, prior: float = 0.01) -> None:
        """Begins with boxes of one patch, the tower's own head as embedding, and all classes as unlikely as `prior`.

        Args:
            projection: of the image tower into the shared space; one that is not linear is not taken.
            prior: probability of each class at each place, in (0, 1).
        """
        last: Any = self.box[-1]
        with torch.no_grad():
            for part in (last.weight, last.bias, self.shift.weight, self.scale.weight):
                nn.init.zeros_(part)
            weight: Any = getattr(projection, "weight", None)
            if isinstance(projection, nn.Linear) and weight.shape == self.embedding.weight.shape:
                self.embedding.weight.copy_(weight)
                nn.init.zeros_(self.embedding.bias)
            scale = 10.0  # of cosines, which lie within 1 of each other
            self.scale.bias.fill_(scale - 1)
            self.shift.bias.fill_(-torch.tensor((1 - prior) / prior).log().item() / scale)

    def forward(self, tokens: Tensor) -> TokenBoxes:
        """Tokens (B, L, W), those of no place first, with L = prefix + side * side.

        Raises:
            InputError: tokens that fill no square.
        """
        side, prefix = square_grid(tokens.shape[1])
        if side < 1 or prefix > max(4, side):  # class and register tokens
            raise InputError(f"{tokens.shape[1]} tokens are no square of places: detection needs a ViT with square pictures")
        places = tokens[:, prefix:]  # (B, L, W) -> (B, Q, W)
        seen = self.norm(places * tokens[:, :1] if prefix else places)
        boxes = (self.box(seen) + box_bias(side, seen)).sigmoid()  # -> (B, Q, 4)
        return TokenBoxes(boxes, self.embedding(seen), self.shift(seen), elu(self.scale(seen)) + 1)


def box_bias(side: int, like: Tensor) -> Tensor:
    """Logits (Q, 4) of a box of one patch at the lower right corner of each place, from the top left, row by row.

    Args:
        side: places in a row.
        like: for type and device.

    Examples:
        >>> box_bias(2, torch.zeros(1)).sigmoid()[0].round(decimals=2).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    steps = torch.arange(1, side + 1, device=like.device, dtype=torch.float32) / side
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    corners = torch.stack([columns, rows], dim=-1).reshape(-1, 2)  # (side, side, 2) -> (Q, 2)
    shares = torch.cat([corners, torch.full_like(corners, 1 / side)], dim=1)  # (Q, 4)
    return ((shares + _EDGE).log() - (_EDGE - shares).log1p()).to(like.dtype)
