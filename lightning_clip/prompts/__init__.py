"""Templates and class names, and classifiers made of them; importing this registers the sets that are built in."""

from lightning_clip.prompts import sets
from lightning_clip.prompts.classifier import zero_shot_classifier
from lightning_clip.prompts.templates import resolve_templates, templates

__all__ = ["resolve_templates", "sets", "templates", "zero_shot_classifier"]
