"""Files of weights: who wrote them, what they leave out, whether they fit."""

from lightning_clip.checkpoints.trained_only import complete, options_with_base

__all__ = ["complete", "options_with_base"]
