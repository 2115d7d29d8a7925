"""What subjects that tests make up have in common: scores by similarity of their features."""

from __future__ import annotations

from typing import Any

from lightning_clip.evaluation.scores import Scores


class BySimilarity:
    """Scores made of the subject's own `features` and `classifier`."""

    scale: float = 1.0
    features: Any
    classifier: Any

    def scores(self, class_names: Any = None, templates: Any = None, split: str = "test", corruption: Any = None) -> Scores:
        found = self.features(split, corruption) if corruption else self.features(split)
        values = self.scale * found.image_features @ self.classifier(class_names, templates)
        return Scores(values, found.label, found.index, found.keys, by_similarity=True)
