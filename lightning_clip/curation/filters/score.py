"""The filter by a model's own judgement: cosine similarity of image and caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.curation.filters.base import Looked, pair_filters
from lightning_clip.curation.filters.of_model import ModelFilter

__all__ = ["Score"]


@pair_filters.register("score")
class Score(ModelFilter):
    """Pairs whose image and best caption have at least this cosine similarity (the CLIP score of LAION and DataComp).

    To keep the best share of the pairs rather than those above a fixed score, give `least: -1` and `best_scores`.

    Args:
        checkpoint: of ours, or published weights: `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder or a file.
        least: cosine in [-1, 1].
        batch_size: images at a time; scores are rounded to 4 decimals, so that its rounding decides nothing.
        device: "auto" takes a GPU if there is one.

    Raises:
        InputError: no such checkpoint, or a cosine out of range.
    """

    def __init__(self, checkpoint: str, least: float = 0.2, batch_size: int = 64, device: str = "auto") -> None:
        if not -1 <= least <= 1:
            raise InputError(f"filter score has least {least}: a cosine is in -1..1")
        super().__init__(checkpoint, batch_size, device)
        self.least, self.reason = least, f"CLIP score below {least:g}"

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        for part in self.batches(samples):
            for sample, score in zip(part, self._scores(part), strict=True):
                sample.score = score
        return [sample.score is not None and sample.score >= self.least for sample in samples]

    def _scores(self, samples: Sequence[Looked]) -> list[float]:
        module = self.module()
        transform = module.image_transform(train=False)
        image_features = module.encode_image(torch.stack([transform(sample.pixels) for sample in samples]))
        owners = [number for number, sample in enumerate(samples) for _ in sample.captions]
        text_features = module.encode_text([text for sample in samples for text in sample.captions])
        cosines = (image_features[owners] * text_features).sum(dim=1)
        best = [-1.0] * len(samples)
        for owner, cosine in zip(owners, cosines.tolist(), strict=True):
            best[owner] = max(best[owner], round(cosine, 4))
        return best
