"""Images seen through a text: its words pool the image's tokens, and what they find must fit the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.encoders.text_pool import TextPool
from lightning_clip.model.build import Temperature
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.scoring import Scorer
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.decoding import image_token_width
from lightning_clip.prompts.classifier import ClassNames

if TYPE_CHECKING:
    from lightning_clip.model.predictor import Predictor

__all__ = ["Flair"]


@objectives.register("flair")
class Flair(Objective):
    """Text-conditioned sigmoid loss of FLAIR (Xiao et al. 2024, arXiv 2412.03561, equation 3).

    v_ij pools the tokens of image i by attention with text j as the query; with z_ij = 1 for pairs and -1 otherwise
    L = -mean_i sum_j log sigmoid(z_ij (s <v_ij, t_j> + b)), over the texts of all ranks. The paper's second term is
    `several_texts` with the sigmoid loss. The pooled features of N^2 pairs are computed `rows` images at a time, twice.

    Evaluation asks s <v_ij, t_j> + b too, with a class's embedding or a caption as t_j, where this objective is the first.

    Args:
        heads: of the attention; they divide the width of the space.
        rows_at_once: images whose pooled features are in memory.
    """

    scoring_parts = frozenset({"text_pool"})

    def __init__(self, heads: int = 8, rows_at_once: int = 32) -> None:
        super().__init__()
        in_range("flair: heads", heads, 1, whole=True)
        in_range("flair: rows_at_once", rows_at_once, 1, whole=True)
        self.heads, self.rows_at_once = heads, rows_at_once

    def reads(self) -> tuple[str, ...]:
        return ("image", "text")

    def reads_tokens(self) -> tuple[str, ...]:
        return ("image",)

    def initial_temperature(self) -> Temperature:
        return Temperature(10.0, -10.0, True)

    def build(self, space: SharedSpace) -> None:
        space.text_pool = TextPool(image_token_width(space, "flair"), space.embed_dim, self.heads)

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        pool: Any = space.text_pool
        return {"tokens": pool.read(output.tokens["image"])}  # (B, L, W) -> (B, L, 2 D)

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """What each image loses (B,): the sum over texts."""
        texts, offset = self.all_columns(output.features["text"])  # (N, D)
        bias = output.scale.new_zeros(1) if output.bias is None else output.bias
        pool: Any = space.text_pool
        parts = []

        def lost(tokens: Tensor, texts: Tensor, own: Tensor) -> Tensor:
            logits = output.scale * pool.cosines(texts, tokens) + bias  # (b, N)
            sign = torch.where(torch.arange(len(texts), device=own.device) == own[:, None], 1.0, -1.0)
            return -logsigmoid(sign * logits).sum(dim=1)  # (b,)

        places = offset + torch.arange(batch.size, device=texts.device)
        for tokens, own in zip(
            *(torch.split(value, self.rows_at_once) for value in (output.rows["tokens"], places)), strict=True
        ):
            parts.append(checkpoint(lost, tokens, texts, own, use_reentrant=False))
        return {"lost": torch.cat(parts)}

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"loss": self.mean(output.rows["lost"])}

    def scorer(self, predictor: Predictor, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer | None:
        return self.text_scorer(predictor, predictor.zero_shot_classifier(class_names, templates).T)

    def text_scorer(self, predictor: Predictor, text_features: Tensor) -> Scorer | None:
        model: Any = predictor.model

        def scores(images: Any) -> Tensor:
            bias, parts = 0.0 if model.logit_bias is None else model.logit_bias, []
            with evaluating(model):
                for pixels in predictor.pixels(images, self.rows_at_once):
                    tokens = model.text_pool.read(model.encode_with_tokens("image", pixels)[1])  # -> (b, L, 2 D)
                    parts.append(model.scale() * model.text_pool.cosines(text_features.to(tokens), tokens) + bias)  # (b, N)
            return torch.cat(parts)

        return scores
