"""Templates and class names, and classifiers made of them."""

from lightning_clip.prompts.classifier import zero_shot_classifier
from lightning_clip.prompts.templates import resolve_templates, templates

__all__ = ["resolve_templates", "templates", "zero_shot_classifier"]
