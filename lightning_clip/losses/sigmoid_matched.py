r"""The sigmoid loss of N images and M texts that match by ids, in tiles, with its gradient.

.. math:: L = \frac{1}{N} \sum_{i,j} \log\left(1 + e^{-z_{ij} (s u_i v_j + b)}\right),
          \quad z_{ij} = 1 \text{ if image } i \text{ and text } j \text{ match else } -1

An image or text without a match is a negative of all texts or images. Matches that are singled out
(`lightning_clip.losses.matches`) are computed one by one; all others change the loss by minus their logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.matched_tiles import MatchedTile, MatchedTiles, Placed, entry_logits
from lightning_clip.losses.matches import find_matches, summed_matches
from lightning_clip.losses.sigmoid_tiles import Problem, SigmoidTiles
from lightning_clip.losses.tiling import Tile, Tiles, full_precision, wide

__all__ = ["matched_sigmoid_loss"]


def matched_sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    bias: Tensor,
    ids: tuple[Tensor, Tensor],
    exchange: Exchange,
    *,
    tile_size: int | None = None,
) -> Tensor:
    """The loss () of this rank; its mean over ranks is that of the images and texts of all of them.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        scale: inverse temperature s, () or (1,).
        bias: b, () or (1,).
        ids: int64 of images (N,) or (N, K) and texts (M,) or (M, K), see `find_matches`.
        exchange: how the columns of all ranks come by; images are its rows, texts its columns.
        tile_size: rows and columns of a tile; None takes 1024.

    Raises:
        InputError: nothing matches; from backward, if a second derivative is asked for.
    """
    with full_precision(image_features.device):
        matches = find_matches(*ids, exchange)
        # A row's matches are all singled out or none: what is added below counts all of them.
        whole = matches.images.whole[matches.row]
        row, column = matches.row[whole], matches.column[whole]
        tiles = partial(MatchedTiles, row, column)
        loss: Tensor = SigmoidTiles.apply(  # type: ignore[no-untyped-call]
            image_features, text_features, scale, bias, Placed(exchange), tile_size, _Problem, tiles
        )
        if not matches.groups:
            return loss
        rows, sums = summed_matches(text_features, matches.images, matches.texts, matches.groups, exchange)
        cosines = (image_features[rows].to(sums.dtype) * sums).sum()
        logits = (scale.to(sums.dtype) * cosines).sum() + (bias.to(sums.dtype) * matches.images.matches[rows].sum()).sum()
        return loss - (logits * (exchange.world_size / exchange.total_rows)).to(loss.dtype)


@dataclass(frozen=True)
class _Problem(Problem):
    """As `Problem`, for a `Placed` exchange and `MatchedTiles`."""

    def pair_logits(self) -> Tensor:
        return self.images.new_empty(0, dtype=wide(self.images.device))  # they are in the tiles

    def add_pairs(self, pair: Tensor, pulled: Tensor, pushed: Tensor, bias: Tensor, rows: Tensor) -> None:
        pass

    def tile_loss(self, texts: Tensor, tile: Tile, tiles: Tiles) -> Tensor:
        return super().tile_loss(texts, tile, tiles) + softplus(-self._matched(texts, tile)).sum()

    def tile_gradient(self, texts: Tensor, tile: Tile, tiles: Tiles) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(tile, MatchedTile)
        loss, total, values = super().tile_gradient(texts, tile, tiles)
        logits = self._matched(texts, tile)
        gradient = -(-logits).sigmoid()
        tile.put(values, gradient)
        return loss + softplus(-logits).sum(), total + gradient.sum(), values

    def _matched(self, texts: Tensor, tile: Tile) -> Tensor:
        """The logits (P,) of the matches that are singled out."""
        assert isinstance(tile, MatchedTile)
        return entry_logits(self.images, texts, self.scale, tile) + self.bias.to(wide(self.images.device))
